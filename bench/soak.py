#!/usr/bin/env python3
"""Full load for a long time: whether memory stays flat and nothing fails.

    bench/soak.py --model packed-dir --bin build/release/bin --duration 30m

Starts quantloom-server and keeps it busy with `quantloom load`: more streams than it has places, prompts and answers of
mixed lengths behind a shared prefix, some streams cancelled midway. Samples the server's memory, and prints it at the
beginning (after a warm-up, in which buffers reach their sizes and the KV cache is touched), at each quarter and at the
end, with the requests by status. Exits with 1 when a request failed.
"""

import argparse
import json
import subprocess
import sys
import time

from quantloom_server import QuantloomServer


def seconds(text):
    return float(text.rstrip("smh")) * {"s": 1, "m": 60, "h": 3600}.get(text[-1], 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="packed directory")
    parser.add_argument("--bin", required=True, help="directory of quantloom and quantloom-server")
    parser.add_argument("--duration", default="30m", help="like 90s, 30m, 1h")
    parser.add_argument("--warmup", default="3m")
    parser.add_argument("--streams", type=int, default=24)
    parser.add_argument("--kv-tokens", type=int, default=6144, help="few, so that all are soon in use")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--interval", type=float, default=5, help="seconds between samples")
    options = parser.parse_args()
    with QuantloomServer(options.bin, options.model, options.threads, [f"--kv-tokens={options.kv_tokens}"]) as server:
        print(f"{server.describe()}; loaded: {server.memory():.1f} MB resident", flush=True)
        load = subprocess.Popen(
            server.client("load", "--streams", str(options.streams), "--warmup", options.warmup, "--duration",
                          options.duration, "--prompt-tokens", "lognormal:96,0.8", "--shared-prefix", "64",
                          "--output-tokens", "uniform:8,128", "--cancel-fraction", "0.1"),
            stdout=subprocess.PIPE, text=True)
        begin = time.monotonic() + seconds(options.warmup)
        samples = []  # (seconds after the warm-up, megabytes)
        while load.poll() is None:
            at = time.monotonic() - begin
            if 0 <= at <= seconds(options.duration):
                samples.append((at, server.memory()))
            time.sleep(options.interval)
        result = json.loads(load.stdout.read())

    for quarter in range(5):
        at, megabytes = min(samples, key=lambda sample: abs(sample[0] - quarter / 4 * samples[-1][0]))
        print(f"after {at / 60:5.1f} min: {megabytes:.1f} MB resident")
    print(f"least {min(m for _, m in samples):.1f} MB, most {max(m for _, m in samples):.1f} MB")
    requests, tokens = result["requests"], result["tokens"]
    print(f"{requests['sent']} requests: {requests['by_status']}, {requests['cancelled_as_asked']} cancelled as asked; "
          f"{tokens['prompt']} prompt tokens ({tokens['cached']} cached), {tokens['generated']} generated, "
          f"{result['tokens_per_second']['total']:.1f} tokens/s")
    if set(requests["by_status"]) != {"OK"}:
        sys.exit(f"requests failed: {result['first_messages']}")


if __name__ == "__main__":
    main()
