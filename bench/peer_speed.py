#!/usr/bin/env python3
"""Prompt and decode speed of a GGUF file in llama.cpp or ik_llama.cpp, as one line of JSON.

    PYTHON_OF_THE_PEER bench/peer_speed.py --package llama_cpp --threads 2 --batch 1,8 model.gguf

Runs in a Python that has the package (llama_cpp or ik_llama_cpp) and calls the library as its own programs do: whole
prompts at once, then a token of every sequence a step, with fp16 keys and values. Fails where a logit is not a number.
"""

import argparse
import contextlib
import ctypes
import json
import os
import statistics
import sys
import time

import numpy

CHUNK = 512  # prompt tokens a step


class Peer:
    """A model in either library, through its low-level bindings."""

    def __init__(self, options):
        if options.package == "llama_cpp":
            import llama_cpp as library
        else:
            from ik_llama_cpp import _ctypes_api as library
        self.library = library
        library.llama_backend_init()
        parameters = library.llama_model_default_params()
        if options.repack:
            parameters.repack_tensors = True
        self.model = library.llama_model_load_from_file(options.file.encode(), parameters)
        if not self.model:
            sys.exit(f"{options.package} cannot load {options.file}")
        self.vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))

    def features(self):
        """The instruction sets that the library was built for."""
        function = getattr(self.library, "llama_print_system_info", None) or self.library._lib.llama_print_system_info
        function.restype = ctypes.c_char_p
        return function().decode().strip()


class Sequences:
    """A context for so many sequences of so many tokens each."""

    def __init__(self, peer, options, tokens, sequences):
        self.library, self.vocabulary = peer.library, peer.vocabulary
        parameters = self.library.llama_context_default_params()
        parameters.n_ctx = sequences * tokens
        parameters.n_batch = parameters.n_ubatch = CHUNK
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = options.threads
        if options.flash_attention is not None:
            parameters.flash_attn = options.flash_attention
        if options.package == "ik_llama_cpp" and sequences > 1:
            parameters.flash_attn = False  # an assertion fails where a block of positions is another sequence's alone
        self.context = self.library.llama_init_from_model(peer.model, parameters)
        if not self.context:
            sys.exit(f"{options.package} cannot make a context for {options.file}")
        self.batch = self.library.llama_batch_init(CHUNK, 0, 1)

    def free(self):
        self.library.llama_batch_free(self.batch)
        self.library.llama_free(self.context)

    def clear(self):
        if hasattr(self.library, "llama_kv_cache_clear"):
            self.library.llama_kv_cache_clear(self.context)
        else:
            self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)

    def run(self, rows):
        """Decodes rows of (token, position, sequence, wants logits); returns seconds."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token % self.vocabulary, position, logits
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
        start = time.perf_counter()
        if self.library.llama_decode(self.context, batch) != 0:
            sys.exit("llama_decode failed")
        self.logits(len(rows) - 1)  # waits for the result
        return time.perf_counter() - start

    def logits(self, row):
        return self.library.llama_get_logits_ith(self.context, row)

    def check(self, row):
        values = numpy.ctypeslib.as_array(ctypes.cast(self.logits(row), ctypes.POINTER(ctypes.c_float)),
                                          (self.vocabulary,))
        if not numpy.isfinite(values).all():
            sys.exit("logits are not numbers")

    def prompt(self, length, sequence=0):
        """Seconds of a prompt of one sequence."""
        seconds = 0
        for begin in range(0, length, CHUNK):
            end = min(begin + CHUNK, length)
            rows = [(100 + i, i, sequence, int(i == length - 1)) for i in range(begin, end)]
            seconds += self.run(rows)
        self.check(len(rows) - 1)
        return seconds

    def decode(self, prompt, generate, sequences):
        """Seconds of the median of `generate` steps of as many sequences."""
        self.clear()
        for sequence in range(sequences):
            self.prompt(prompt, sequence)
        steps = [self.run([(200 + step, prompt + step, sequence, 1) for sequence in range(sequences)])
                 for step in range(generate)]
        self.check(sequences - 1)
        return statistics.median(steps)


@contextlib.contextmanager
def quiet_standard_error():
    """The libraries tell everything about the model there."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", required=True, choices=["llama_cpp", "ik_llama_cpp"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt that is timed; 0: none")
    parser.add_argument("--context", type=int, default=64, help="tokens before those that are generated")
    parser.add_argument("--generate", type=int, default=64, help="generated tokens of each sequence")
    parser.add_argument("--batch", type=lambda text: [int(part) for part in text.split(",")], default=[1])
    parser.add_argument("--repack", action="store_true", help="ik_llama.cpp's run-time repacking")
    parser.add_argument("--flash-attention", action=argparse.BooleanOptionalAction, help="[the library's default]")
    parser.add_argument("--verbose", action="store_true", help="with the library's log")
    parser.add_argument("file")
    options = parser.parse_args()
    result = {"decode_tokens_per_second": {}}
    with contextlib.nullcontext() if options.verbose else quiet_standard_error():
        tokens = max(options.prompt, options.context + options.generate) + 8
        peer = Peer(options)
        for batch in options.batch:
            sequences = Sequences(peer, options, tokens, batch)
            sequences.prompt(1)  # first use of the weights
            if batch == options.batch[0] and options.prompt:
                sequences.clear()
                result["prompt_tokens_per_second"] = options.prompt / sequences.prompt(options.prompt)
            result["decode_tokens_per_second"][batch] = (
                batch / sequences.decode(options.context, options.generate, batch))
            sequences.free()
        result["features"] = peer.features()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
