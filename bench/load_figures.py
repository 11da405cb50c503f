#!/usr/bin/env python3
"""What a server does when it has too much to do, over gRPC, with `quantloom load`.

    bench/load_figures.py --model packed-dir --bin build/release/bin

  beside    short prompts one after the other, with nothing else to do and beside streams of prompts of 2,000 tokens, in
            turns: the ratio of the times to their first token
  prefix    a prompt that begins with 1,000 tokens of an earlier one, against that one
  crowd     1,000 streams for a server with 16 places: what they end with, how long the longest waited, memory before and
            at its peak

Absolute times say more about the machine than about the server; ratios come from the same run.
"""

import argparse
import statistics
import subprocess
import time

from quantloom_server import QuantloomServer


def first_tokens(report):
    return report["latency_seconds"]["time_to_first_token"]


def beside(server, options):
    alone, loaded = [], []
    for turn in range(options.turns):
        short = ["--streams", "1", "--requests", options.requests // options.turns, "--prompt-tokens", "32",
                 "--output-tokens", "16", "--client", "short", "--load-seed"]
        alone.append(server.load(*short, 2 * turn))
        background = subprocess.Popen(
            server.client("load", "--streams", "4", "--duration", "10m", "--prompt-tokens", "1984", "--output-tokens",
                          "64", "--client", "long", "--load-seed", str(1000 + turn)), stdout=subprocess.DEVNULL)
        time.sleep(2)
        loaded.append(server.load(*short, 2 * turn + 1))
        background.send_signal(2)  # as Ctrl-C does
        background.wait()
    for name in ("p50", "p99"):
        ratios = [first_tokens(b)[name] / first_tokens(a)[name] for a, b in zip(alone, loaded)]
        print(f"beside: time to first token {name}: alone {1e3 * statistics.median(first_tokens(a)[name] for a in alone):.0f}"
              f" ms, beside long prompts {1e3 * statistics.median(first_tokens(b)[name] for b in loaded):.0f} ms, "
              f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})", flush=True)


def prefix(server, options):
    ratios = []
    for turn in range(options.turns):
        report = server.load("--streams", 1, "--requests", 2, "--shared-prefix", 1000, "--prompt-tokens", 32,
                             "--output-tokens", 2, "--load-seed", turn)
        first = first_tokens(report)["max"]
        second = 2 * first_tokens(report)["mean"] - first
        if report["tokens"]["cached"] < 992:  # whole blocks of 16
            raise SystemExit(f"the prefix was computed twice: {report['tokens']}")
        ratios.append(second / first)
    print(f"prefix: second request's time to first token {100 * statistics.median(ratios):.1f} % of the first's "
          f"({100 * min(ratios):.1f} - {100 * max(ratios):.1f})", flush=True)


def crowd(server, options):
    before = server.memory()
    report = server.load("--streams", options.crowd, "--requests", options.crowd, "--prompt-tokens", "uniform:16,128",
                         "--output-tokens", "uniform:8,32")
    latency = report["latency_seconds"]
    print(f"crowd: {options.crowd} streams: {report['requests']['by_status']}, memory {before:.0f} MB before, "
          f"{server.memory('VmHWM'):.0f} MB at most, {server.memory():.0f} MB after; longest wait in the queue "
          f"{latency['queue']['max']:.1f} s of {report['measured_seconds']:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="packed directory")
    parser.add_argument("--bin", required=True, help="directory of quantloom and quantloom-server")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--requests", type=int, default=40, help="short prompts, in all")
    parser.add_argument("--crowd", type=int, default=1000, help="streams")
    parser.add_argument("--kv-tokens", type=int, default=32768)
    parser.add_argument("figures", nargs="*", choices=["beside", "prefix", "crowd", []], help="all of them")
    options = parser.parse_args()
    wanted = options.figures or ["crowd", "prefix", "beside"]
    with QuantloomServer(options.bin, options.model, options.threads, [f"--kv-tokens={options.kv_tokens}"]) as server:
        print(server.describe(), flush=True)
        for name in wanted:
            {"beside": beside, "prefix": prefix, "crowd": crowd}[name](server, options)


if __name__ == "__main__":
    main()
