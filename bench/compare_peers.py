#!/usr/bin/env python3
"""Speed beside llama.cpp and ik_llama.cpp on models of the same shapes, in interleaved runs on this machine.

    bench/compare_peers.py --bin build/release/bin --models DIRECTORY --results results.json \\
        --llama-python PYTHON_WITH_llama_cpp --ik-python PYTHON_WITH_ik_llama_cpp [--part 1b] [--only REGEX]

Needs PyPI's llama-cpp-python and ik-llama-cpp-python, each in a Python whose path is given, built for this machine
(CMAKE_ARGS=-DGGML_NATIVE=ON and a source installation); the instruction sets that they say they have are recorded. Models
are random and written to DIRECTORY where they are missing, in minutes and some gigabytes. ik_llama.cpp runs with and without
its run-time repacking, the better of which counts; other settings are the libraries' own.

  demonstration  SmolLM2-135M's shapes, near the caches
  1b             Llama-3.2-1B's shapes, from memory
  codes          the latter without an output head: trellis and lattice codes
  kernels        linear_bench, one thread

A round runs every contestant of a part once; ratios are taken within rounds, their median and spread over rounds. Before
each there is a pause: virtual machines often have a budget of processor time that steady work uses up, and then stand still
for 40 of every 100 ms. A run that more than 2 % of the processors' time was stolen from is repeated. Results are added to
the file, which performance_page.py makes docs/performance.md of. --fresh forgets a part's earlier rounds.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

from performance_results import IK, LLAMA, OURS, PARTS, REQUIREMENTS, load, outcome, save

ATTEMPTS = 3
STOLEN = 0.02  # share of processor time that another virtual machine may have had
HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = {LLAMA: "llama_cpp", IK: "ik_llama_cpp"}
FEATURES = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vbmi", "avx512_vnni", "avx512_bf16", "asimd",
            "asimddp", "i8mm", "sve")
CONTEXT, GENERATE = 32, {"smollm2-135m": 64, "llama-3.2-1b": 32}  # tokens before those that are timed, and these


def run(command, what):
    """Standard output of a command; ends this script when it fails."""
    try:
        finished = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    except OSError as error:
        sys.exit(f"{what}: {error}")
    if finished.returncode != 0:
        sys.exit(f"{what} failed ({finished.returncode}): {' '.join(map(str, command))}\n{finished.stderr[-2000:]}")
    return finished.stdout


def stolen_seconds():
    """Processor time that the machine's host has given to others; 0 where it does not say."""
    processors = pathlib.Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()
    return int(processors[8]) / os.sysconf("SC_CLK_TCK") if len(processors) > 8 else 0


def machine():
    """The processor and which of the instruction sets that matter it has."""
    info = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", info, re.MULTILINE)
    name = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    return {"processor": name.group(1) if name else platform.machine(),
            "features": [feature for feature in FEATURES if feature in present]}


class Runner:
    def __init__(self, options):
        self.options = options
        self.bin, self.models = pathlib.Path(options.bin), pathlib.Path(options.models)
        self.python = {LLAMA: options.llama_python, IK: options.ik_python}

    def usable(self, contestant):
        return contestant.side == OURS or self.python[contestant.side] is not None

    def prepare(self, contestant):
        """Writes its model unless it is there."""
        path = self.models / contestant.file
        if path.exists():
            return
        print(f"writing {path}", file=sys.stderr, flush=True)
        self.models.mkdir(parents=True, exist_ok=True)
        temporary = self.models / f".{contestant.file}"
        if contestant.side == OURS:
            command = [self.bin / "random_model", "--shape", contestant.shape, "--recipe", contestant.kind]
            command += ["--vocab", contestant.vocabulary] if contestant.vocabulary else []
        else:
            command = [self.python[contestant.side], HERE / "random_gguf.py", "--package", PACKAGES[contestant.side],
                       "--shape", contestant.shape, "--type", contestant.kind]
            command += ["--vocabulary", contestant.vocabulary] if contestant.vocabulary else []
        run([*command, temporary], f"writing the model of {contestant.name}")
        temporary.rename(path)

    def into_page_cache(self, contestant):
        """Reads its model, so that no process waits for the disk in what is timed."""
        path = self.models / contestant.file
        for file in path.iterdir() if path.is_dir() else [path]:
            with open(file, "rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass

    def measure(self, contestant, results):
        """One run that the machine's host let work: metric -> value."""
        self.into_page_cache(contestant)
        for attempt in range(1, ATTEMPTS + 1):
            time.sleep(self.options.rest * attempt)
            begin, stolen = time.monotonic(), stolen_seconds()
            metrics = self.run_once(contestant, results)
            stolen = (stolen_seconds() - stolen) / (time.monotonic() - begin) / self.options.threads
            if stolen <= STOLEN:
                break
            print(f"  {contestant.name}: {stolen:.0%} of the processors' time was stolen", file=sys.stderr, flush=True)
        return metrics

    def run_once(self, contestant, results):
        if contestant.side == OURS:
            return self.measure_ours(contestant, results)
        return self.measure_peer(contestant, results)

    def bench(self, contestant, *arguments):
        return json.loads(run([self.bin / "quantloom-bench", f"--threads={self.options.threads}", "--json", *arguments,
                               self.models / contestant.file], contestant.name))

    def measure_ours(self, contestant, results):
        metrics = {}
        if contestant.prompt:
            prompt = self.bench(contestant, f"--prompt={contestant.prompt}", "--generate=0")["results"][0]
            metrics["prompt"] = prompt["prompt_tokens_per_second"]
            metrics["prompt int8 share"] = prompt.get("prompt_share_of_int8_peak")
        batches = ",".join(map(str, contestant.batches))
        report = self.bench(contestant, f"--prompt={CONTEXT}", f"--generate={GENERATE[contestant.shape]}",
                            f"--batch={batches}")
        for figures in report["results"]:
            metrics[f"decode {figures['batch']}"] = figures["generated_tokens_per_second"]
            metrics[f"int8 share {figures['batch']}"] = figures.get("share_of_int8_peak")
        first = report["results"][0]
        metrics["bandwidth share"] = first.get("share_of_read_bandwidth")
        metrics["weights/s"] = first["linear_weights_per_second"]
        metrics["bytes/s"] = first["weight_bytes_per_second"]
        metrics["head share"] = first["head_seconds"] / first["step_seconds"]
        metrics["read bandwidth"] = first["read_bytes_per_second"]
        metrics["int8 peak"] = report["machine"]["int8_multiply_adds_per_second"]
        results["machine"]["simd"] = report["processor"]
        results.setdefault("models", {})[contestant.file] = {
            "bits": report.get("linear_bits_per_weight"), "layers": report["layers"], "head": report["head"]}
        return metrics

    def measure_peer(self, contestant, results):
        command = [self.python[contestant.side], HERE / "peer_speed.py", "--package", PACKAGES[contestant.side],
                   f"--threads={self.options.threads}", f"--prompt={contestant.prompt}", f"--context={CONTEXT}",
                   f"--generate={GENERATE[contestant.shape]}", f"--batch={','.join(map(str, contestant.batches))}"]
        command += ["--repack"] if contestant.repacked else []
        report = json.loads(run([*command, self.models / contestant.file], contestant.name))
        results["machine"].setdefault("peers", {})[contestant.side] = report["features"]
        metrics = {f"decode {batch}": value for batch, value in report["decode_tokens_per_second"].items()}
        if contestant.prompt:
            metrics["prompt"] = report["prompt_tokens_per_second"]
        return metrics


def kernels(options):
    """linear_bench's figures of the wide matrix."""
    output = run([pathlib.Path(options.bin) / "linear_bench", f"--benchmark_filter={options.kernels}",
                  "--benchmark_min_time=0.2", "--benchmark_format=json"], "linear_bench")
    rows = []
    for row in json.loads(output)["benchmarks"]:
        rows.append({"name": row["name"], "target": row.get("label", ""), "weights/s": row["weights/s"],
                     "bytes/s": row["bytes/s"], "bandwidth share": row.get("of_read_bandwidth"),
                     "int8 share": row["of_int8_peak"]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="directory of quantloom-bench, random_model and linear_bench")
    parser.add_argument("--models", required=True, help="directory for models")
    parser.add_argument("--results", required=True, help="JSON file that is added to")
    parser.add_argument("--llama-python", help="Python with llama_cpp; without it llama.cpp is left out")
    parser.add_argument("--ik-python", help="Python with ik_llama_cpp; without it ik_llama.cpp is left out")
    parser.add_argument("--part", action="append", choices=[*PARTS, "kernels"], help="repeatable [all]")
    parser.add_argument("--only", default=".", help="regular expression of contestants, e.g. 'icquant|Q2_K'")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rest", type=float, default=4, help="seconds of idleness before each run [4]")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of these parts")
    parser.add_argument("--prepare", action="store_true", help="write models, measure nothing")
    parser.add_argument("--kernels", default="2048/8192/(1|8|128)", help="linear_bench's filter")
    options = parser.parse_args()
    runner, results = Runner(options), load(options.results)
    for side, python in runner.python.items():
        if python is None:
            print(f"no Python with {PACKAGES[side]} was named: {side} is left out", file=sys.stderr)
    results["machine"] = {**results.get("machine", {}), **machine(), "threads": options.threads}
    print("; ".join([results["machine"]["processor"], " ".join(results["machine"]["features"])]), flush=True)
    for part in options.part or [*PARTS, "kernels"]:
        if part == "kernels":
            if not options.prepare:
                results["kernels"] = kernels(options)
                save(results, options.results)
            continue
        contestants = [c for c in PARTS[part] if runner.usable(c) and re.search(options.only, c.name)]
        for contestant in contestants:
            runner.prepare(contestant)
        if options.prepare:
            continue
        rounds = [] if options.fresh else results["parts"].get(part, [])
        for number in range(options.rounds):
            begin, round_ = time.monotonic(), {}
            for contestant in contestants if number % 2 == 0 else reversed(contestants):
                started = time.monotonic()
                round_[contestant.name] = runner.measure(contestant, results)
                print(f"  {contestant.name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
            rounds.append(round_)
            results["parts"][part] = rounds
            save(results, options.results)
            print(f"{part}: round {number + 1} of {options.rounds} in {time.monotonic() - begin:.0f} s", flush=True)
        for requirement in REQUIREMENTS:
            found = outcome(requirement, rounds) if requirement.part == part else None
            if found:
                aim = f" aim {requirement.aim:g}" if requirement.aim else ""
                print(f"  {requirement.title}: {found.ratio:.2f} ({found.low:.2f} - {found.high:.2f}), floor "
                      f"{requirement.floor:g}{aim}{', ' + found.peer if found.peer else ''}")


if __name__ == "__main__":
    main()
