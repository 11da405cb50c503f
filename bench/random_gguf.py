#!/usr/bin/env python3
"""Writes a GGUF file of random weights in a type of llama.cpp or ik_llama.cpp, with the shapes of `random_model`'s.

    PYTHON_OF_THE_PEER bench/random_gguf.py --package llama_cpp --type Q2_K --shape llama-3.2-1b model.gguf

Runs in a Python that has the package (llama_cpp or ik_llama_cpp), whose own library quantizes: 64 rows of each width,
which are repeated. Embedding and head are one matrix in Q8_0, norms are F32. The file has no vocabulary.
"""

import argparse
import ctypes
import importlib.util
import pathlib
import struct
import sys

import numpy

# hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary: as in random_model.cc
SHAPES = {
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, 49152),
    "smollm2-135m": (576, 1536, 30, 9, 3, 64, 49152),
}
# ggml's numbers; those from 137 on are ik_llama.cpp's alone.
TYPES = {
    "F32": 0, "Q4_0": 2, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18,
    "IQ3_S": 21, "IQ4_XS": 23, "IQ2_K": 137, "IQ3_K": 138, "IQ4_K": 139, "IQ2_KS": 145, "IQ2_KT": 153, "IQ3_KT": 154,
    "IQ4_KT": 155,
}
DISTINCT_ROWS = 64
ALIGNMENT = 32


def package_directory(package):
    """Where a Python package is, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"{sys.executable} has no package {package}: install llama-cpp-python or ik-llama-cpp-python for it")
    return pathlib.Path(found.submodule_search_locations[0])


class InitParameters(ctypes.Structure):
    """ggml_init_params."""
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class Quantizer:
    """ggml's own quantization."""

    def __init__(self, package):
        directory = package_directory(package) / "lib"
        for name in ("libggml-base.so", "libggml.so"):
            if (directory / name).exists():
                self.library = ctypes.CDLL(str(directory / name))
                break
        else:
            sys.exit(f"{directory} has no libggml")
        self.library.ggml_init.argtypes = [InitParameters]
        self.library.ggml_init.restype = ctypes.c_void_p
        self.library.ggml_init(InitParameters(1 << 20, None, False))  # fills the tables that quantization reads
        floats = numpy.ctypeslib.ndpointer(numpy.float32, flags="C")
        self.chunk = self.library.ggml_quantize_chunk
        self.chunk.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
                               floats]
        self.chunk.restype = ctypes.c_size_t
        self.row_size = self.library.ggml_row_size
        self.row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        self.row_size.restype = ctypes.c_size_t
        self.random = numpy.random.default_rng(1)
        self.rows = {}

    def matrix(self, kind, rows, cols):
        """Bytes of a matrix whose rows repeat some that were quantized."""
        number = TYPES[kind]
        if (kind, cols) not in self.rows:
            values = self.random.standard_normal((DISTINCT_ROWS, cols), dtype=numpy.float32) / cols**0.5
            size = self.row_size(number, cols)
            quantized = numpy.zeros(DISTINCT_ROWS * size, dtype=numpy.uint8)
            written = self.chunk(number, values, quantized.ctypes.data, 0, DISTINCT_ROWS, cols,
                                 numpy.ones(cols, dtype=numpy.float32))
            if written != quantized.size:
                sys.exit(f"ggml_quantize_chunk wrote {written} bytes of {quantized.size} in {kind}")
            self.rows[kind, cols] = quantized.reshape(DISTINCT_ROWS, size)
        distinct = self.rows[kind, cols]
        return numpy.tile(distinct, (-(-rows // DISTINCT_ROWS), 1))[:rows].tobytes()


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def metadata_entry(key, value):
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    return text(key) + struct.pack("<II", 4, value)


def metadata(shape):
    hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary = shape
    return {
        "general.architecture": "llama", "general.alignment": ALIGNMENT, "llama.block_count": layers,
        "llama.context_length": 8192, "llama.embedding_length": hidden, "llama.feed_forward_length": intermediate,
        "llama.attention.head_count": heads, "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.dimension_count": head_dim,
        "llama.rope.freq_base": 10000.0, "llama.vocab_size": vocabulary, "tokenizer.ggml.model": "no_vocab",
    }


def tensors(shape, kind):
    """(name, type, rows, columns) in the file's order; vectors have no rows."""
    hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary = shape
    yield "token_embd.weight", "Q8_0", vocabulary, hidden
    for layer in range(layers):
        yield f"blk.{layer}.attn_norm.weight", "F32", 0, hidden
        yield f"blk.{layer}.attn_q.weight", kind, heads * head_dim, hidden
        yield f"blk.{layer}.attn_k.weight", kind, kv_heads * head_dim, hidden
        yield f"blk.{layer}.attn_v.weight", kind, kv_heads * head_dim, hidden
        yield f"blk.{layer}.attn_output.weight", kind, hidden, heads * head_dim
        yield f"blk.{layer}.ffn_norm.weight", "F32", 0, hidden
        yield f"blk.{layer}.ffn_gate.weight", kind, intermediate, hidden
        yield f"blk.{layer}.ffn_up.weight", kind, intermediate, hidden
        yield f"blk.{layer}.ffn_down.weight", kind, hidden, intermediate
    yield "output_norm.weight", "F32", 0, hidden


def padding(size):
    return b"\0" * (-size % ALIGNMENT)


def write(path, shape, kind, quantizer):
    entries, data_size, listed = metadata(shape), 0, list(tensors(shape, kind))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(entries))
    header += b"".join(metadata_entry(key, value) for key, value in entries.items())
    for name, kind_of_tensor, rows, cols in listed:
        dimensions = [cols, rows] if rows else [cols]
        header += text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        header += struct.pack("<IQ", TYPES[kind_of_tensor], data_size)
        size = max(rows, 1) * (4 * cols if kind_of_tensor == "F32" else quantizer.row_size(TYPES[kind_of_tensor], cols))
        data_size += size + len(padding(size))
    with open(path, "wb") as file:
        file.write(header + padding(len(header)))
        for _, kind_of_tensor, rows, cols in listed:
            if rows == 0:
                data = numpy.ones(cols, dtype=numpy.float32).tobytes()
            else:
                data = quantizer.matrix(kind_of_tensor, rows, cols)
            file.write(data + padding(len(data)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", required=True, choices=["llama_cpp", "ik_llama_cpp"])
    parser.add_argument("--type", required=True, choices=[name for name in TYPES if name != "F32"])
    parser.add_argument("--shape", default="llama-3.2-1b", choices=SHAPES)
    parser.add_argument("--vocabulary", type=int, help="tokens, instead of the shape's")
    parser.add_argument("file")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    if options.vocabulary:
        shape = (*shape[:-1], options.vocabulary)
    write(options.file, shape, options.type, Quantizer(options.package))


if __name__ == "__main__":
    main()
