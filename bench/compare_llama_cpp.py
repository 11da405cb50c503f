#!/usr/bin/env python3
"""Decode and prompt speed of packed models beside llama.cpp's, in interleaved runs on this machine.

    bench/compare_llama_cpp.py --gguf model-q4_0.gguf --model packed-dir --bench build/release/bin/model_bench

Needs PyPI's llama-cpp-python. Both sides use the same threads and the same numbers of tokens. Each round runs every
contestant once; printed are medians, and the median of the rounds' ratios, which a noisy machine disturbs least.
"""

import argparse
import json
import statistics
import subprocess
import time


def llama_speeds(path, threads, prompt_tokens, generated_tokens):
    """(prompt tokens/s, generated tokens/s) of one fresh context."""
    from llama_cpp import Llama

    llama = Llama(model_path=path, n_ctx=prompt_tokens + generated_tokens + 8, n_batch=prompt_tokens,
                  n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = [100 + i % 1000 for i in range(prompt_tokens)]
    llama.eval([100])  # warm-up: first use of the weights
    llama.reset()
    start = time.perf_counter()
    llama.eval(prompt)
    prompt_seconds = time.perf_counter() - start
    start = time.perf_counter()
    for i in range(generated_tokens):
        llama.eval([200 + i % 1000])
    return prompt_tokens / prompt_seconds, generated_tokens / (time.perf_counter() - start)


def quantloom_speeds(bench, directory, threads, prompt_tokens, generated_tokens):
    output = subprocess.run(
        [bench, f"--threads={threads}", f"--prompt={prompt_tokens}", f"--generate={generated_tokens}", "--json", directory],
        check=True, capture_output=True, text=True).stdout
    result = json.loads(output)
    return result["prompt_tokens_per_second"], result["generated_tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True, help="llama.cpp's model")
    parser.add_argument("--model", required=True, action="append", help="packed directory; repeatable")
    parser.add_argument("--bench", required=True, help="path of the model_bench program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="prompt tokens")
    parser.add_argument("--generate", type=int, default=128, help="generated tokens")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    peer, ours = [], {directory: [] for directory in options.model}
    for _ in range(options.rounds):
        peer.append(llama_speeds(options.gguf, options.threads, options.prompt, options.generate))
        for directory, speeds in ours.items():
            speeds.append(quantloom_speeds(options.bench, directory, options.threads, options.prompt, options.generate))

    def line(name, speeds):
        prompt = statistics.median(s[0] for s in speeds)
        decode = statistics.median(s[1] for s in speeds)
        ratio = [statistics.median(s[k] / p[k] for s, p in zip(speeds, peer)) for k in (0, 1)]
        print(f"{name:48.48s} {prompt:10.1f} {ratio[0]:7.2f} {decode:10.1f} {ratio[1]:7.2f}")

    print(f"{'model':48s} {'prompt/s':>10s} {'ratio':>7s} {'decode/s':>10s} {'ratio':>7s}")
    line(options.gguf, peer)
    for directory, speeds in ours.items():
        line(directory, speeds)


if __name__ == "__main__":
    main()
