"""Safetensors and GGUF against the PyPI packages `safetensors` and `gguf`, in both directions.

Usage: format_oracle.py path/to/format_probe
With QUANTLOOM_TEST_MODEL set to a GGUF file, every tensor of it is compared too.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest

import gguf
import numpy as np
import safetensors
import safetensors.numpy

PROBE = None
QUANTIZED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def probe(*args):
    result = subprocess.run([PROBE, *map(str, args)], check=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def float_digest(values):
    return sha256(np.ascontiguousarray(values, dtype=np.float32).tobytes())


def random_arrays(rng):
    arrays = {}
    for i, dtype in enumerate([np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float16,
                               np.float32, np.float64, np.int64, np.uint64, np.bool_]):
        shape = [(), (3,), (2, 5), (0, 4), (2, 1, 3)][i % 5]
        raw = rng.integers(0, 2 if dtype == np.bool_ else 100, size=shape)
        arrays[f"tensor.{np.dtype(dtype).name}"] = raw.astype(dtype)
    return arrays


def random_blocks(rng, qtype, rows, blocks):
    """Random bytes as blocks of a ggml type, with finite scales of both signs."""
    _, size = gguf.GGML_QUANT_SIZES[qtype]
    data = rng.integers(0, 256, size=(rows, blocks, size), dtype=np.uint8)
    scales = 2 if qtype.name.endswith("_1") else 1
    halves = rng.normal(0, 0.1, size=(rows, blocks, scales)).astype(np.float16)
    halves[0, 0] = [0.0, -0.0][:scales]
    halves[-1, -1] = np.float16(6e-8)  # subnormal
    data[:, :, : 2 * scales] = halves.view(np.uint8)
    return data.reshape(rows, blocks * size)


class Safetensors(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = os.path.join(self.directory.name, "model.safetensors")
        self.arrays = random_arrays(np.random.default_rng(1))
        safetensors.numpy.save_file(self.arrays, self.path, metadata={"format": "np", "ключ": "значение"})

    def test_reads_what_the_package_writes(self):
        described = probe("safetensors", self.path)
        self.assertEqual(set(described), set(self.arrays))
        for name, array in self.arrays.items():
            self.assertEqual(described[name]["shape"], list(array.shape))
            self.assertEqual(described[name]["sha256"], sha256(array.tobytes()), name)

    def test_the_package_reads_what_is_written(self):
        copy = os.path.join(self.directory.name, "copy.safetensors")
        probe("safetensors-copy", self.path, copy)
        read = safetensors.numpy.load_file(copy)
        self.assertEqual(set(read), set(self.arrays))
        for name, array in self.arrays.items():
            self.assertEqual(read[name].dtype, array.dtype)
            np.testing.assert_array_equal(read[name], array)
        with safetensors.safe_open(copy, framework="np") as file:
            self.assertEqual(file.metadata(), {"format": "np", "ключ": "значение"})

    def test_reads_shards(self):
        directory = os.path.join(self.directory.name, "sharded")
        os.mkdir(directory)
        weight_map = {}
        for i, (name, array) in enumerate(self.arrays.items()):
            shard = f"model-{i % 2 + 1:05d}-of-00002.safetensors"
            weight_map[name] = shard
        for shard in set(weight_map.values()):
            part = {n: a for n, a in self.arrays.items() if weight_map[n] == shard}
            safetensors.numpy.save_file(part, os.path.join(directory, shard))
        with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
            json.dump({"metadata": {}, "weight_map": weight_map}, file)
        described = probe("safetensors-dir", directory)
        self.assertEqual({n: d["sha256"] for n, d in described.items()},
                         {n: sha256(a.tobytes()) for n, a in self.arrays.items()})


class Gguf(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = os.path.join(self.directory.name, "model.gguf")

    def test_reads_metadata_of_every_type(self):
        writer = gguf.GGUFWriter(self.path, "llama")
        values = {
            "u8": ("unsigned", 255, writer.add_uint8), "i8": ("number", -128, writer.add_int8),
            "u16": ("unsigned", 65535, writer.add_uint16), "i16": ("number", -32768, writer.add_int16),
            "u32": ("unsigned", 2**32 - 1, writer.add_uint32), "i32": ("number", -(2**31), writer.add_int32),
            "u64": ("unsigned", 2**64 - 1, writer.add_uint64), "i64": ("number", -(2**40), writer.add_int64),
            "f32": ("number", 0.15625, writer.add_float32), "f64": ("number", 0.1, writer.add_float64),
            "bool": ("bool", True, writer.add_bool), "string": ("string", "日本語 🙂", writer.add_string),
            "strings": ("strings", ["a", "Ġb", "日本語"], writer.add_array),
            "integers": ("integers", [1, -2, 2**31 - 1], writer.add_array),
            "numbers": ("numbers", [0.5, -1.25], writer.add_array),
        }
        for key, (_, value, add) in values.items():
            add(key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        described = probe("gguf", self.path, json.dumps({k: kind for k, (kind, _, _) in values.items()}))
        self.assertEqual(described["metadata"], {k: value for k, (_, value, _) in values.items()})

    def test_dequantizes_every_type_to_the_same_bits(self):
        rng = np.random.default_rng(2)
        writer = gguf.GGUFWriter(self.path, "llama")
        expected = {}
        for name in QUANTIZED:
            qtype = gguf.GGMLQuantizationType[name]
            data = random_blocks(rng, qtype, 7, 5)
            writer.add_tensor(name, data, raw_dtype=qtype)
            expected[name] = (qtype.name, gguf.quants.dequantize(data, qtype))
        bits = rng.integers(0, 2**16, size=(3, 11), dtype=np.uint16)
        bits[(bits & 0x7C00) == 0x7C00] = 1  # no infinities or NaN as F16
        writer.add_tensor("F16", bits.view(np.float16))
        expected["F16"] = ("F16", bits.view(np.float16).astype(np.float32))
        writer.add_tensor("BF16", bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        expected["BF16"] = ("BF16", (bits.astype(np.uint32) << 16).view(np.float32))
        floats = rng.normal(size=(2, 3, 4)).astype(np.float32)
        writer.add_tensor("F32", floats)
        expected["F32"] = ("F32", floats)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        described = probe("gguf", self.path, "{}")["tensors"]
        self.assertEqual(set(described), set(expected))
        for name, (qtype, values) in expected.items():
            self.assertEqual(described[name]["type"], qtype)
            self.assertEqual(described[name]["shape"], list(values.shape))
            self.assertEqual(described[name]["floats"], float_digest(values), name)

    @unittest.skipUnless(os.environ.get("QUANTLOOM_TEST_MODEL"), "QUANTLOOM_TEST_MODEL names no GGUF file")
    def test_dequantizes_the_demonstration_model_to_the_same_bits(self):
        path = os.environ["QUANTLOOM_TEST_MODEL"]
        reader = gguf.GGUFReader(path)
        described = probe("gguf", path, "{}")["tensors"]
        self.assertEqual(set(described), {t.name for t in reader.tensors})
        types = set()
        for tensor in reader.tensors:
            types.add(tensor.tensor_type.name)
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            self.assertEqual(described[tensor.name]["floats"], float_digest(values), tensor.name)
        self.assertIn("Q4_1", types)
        self.assertIn("Q8_0", types)


def llama_cpp_order(weights, heads):
    """The order of q and k rows in llama.cpp's GGUF files."""
    rows, cols = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


class SourceModels(unittest.TestCase):
    """The same random Llama as a Hugging Face directory and as GGUF opens as the same model."""

    CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 64,
              "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 2.0**-16, "rope_theta": 10000.0,
              "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
    LAYER = [("input_layernorm", "attn_norm", (64,)), ("self_attn.q_proj", "attn_q", (64, 64)),
             ("self_attn.k_proj", "attn_k", (32, 64)), ("self_attn.v_proj", "attn_v", (32, 64)),
             ("self_attn.o_proj", "attn_output", (64, 64)), ("post_attention_layernorm", "ffn_norm", (64,)),
             ("mlp.gate_proj", "ffn_gate", (96, 64)), ("mlp.up_proj", "ffn_up", (96, 64)),
             ("mlp.down_proj", "ffn_down", (64, 96))]

    def names(self):
        yield "model.embed_tokens.weight", "token_embd.weight", (40, 64)
        for layer in range(2):
            for hf, ggml, shape in self.LAYER:
                yield f"model.layers.{layer}.{hf}.weight", f"blk.{layer}.{ggml}.weight", shape
        yield "model.norm.weight", "output_norm.weight", (64,)
        yield "lm_head.weight", "output.weight", (40, 64)

    def test_both_forms_open_as_the_same_model(self):
        rng = np.random.default_rng(3)
        arrays = {hf: rng.normal(size=shape).astype(np.float32) for hf, _, shape in self.names()}
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "config.json"), "w") as file:
                json.dump(self.CONFIG, file)
            safetensors.numpy.save_file(arrays, os.path.join(directory, "model.safetensors"))
            from_hf = probe("source", directory)

            path = os.path.join(directory, "model.gguf")
            writer = gguf.GGUFWriter(path, "llama")
            writer.add_block_count(2)
            writer.add_context_length(256)
            writer.add_embedding_length(64)
            writer.add_feed_forward_length(96)
            writer.add_head_count(4)
            writer.add_head_count_kv(2)
            writer.add_layer_norm_rms_eps(2.0**-16)
            writer.add_rope_freq_base(10000.0)
            writer.add_rope_dimension_count(16)
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre("smollm")
            tokens = ["<unk>", "<s>", "</s>", "ab"] + [chr(ord("A") + i) for i in range(36)]
            writer.add_token_list(tokens)
            writer.add_token_types([3, 3, 3] + [1] * 37)
            writer.add_token_merges(["a b"])
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)
            for hf, ggml, _ in self.names():
                array = arrays[hf]
                if ".q_proj" in hf:
                    array = llama_cpp_order(array, 4)
                elif ".k_proj" in hf:
                    array = llama_cpp_order(array, 2)
                writer.add_tensor(ggml, array)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            from_gguf = probe("source", path)

            with open(path, "rb") as file:
                self.assertEqual(from_gguf["digest"], sha256(file.read()))
            lines = subprocess.run("sha256sum config.json model.safetensors", shell=True, cwd=directory, check=True,
                                   capture_output=True).stdout
            self.assertEqual(from_hf["digest"], sha256(lines))
        expected = {name: float_digest(array) for name, array in arrays.items()}
        self.assertEqual(from_hf["tensors"], expected)
        self.assertEqual(from_gguf["tensors"], expected)
        for key, value in self.CONFIG.items():
            self.assertEqual(from_hf["config"][key], value, key)
            self.assertEqual(from_gguf["config"][key], value, key)


if __name__ == "__main__":
    PROBE = sys.argv.pop(1)
    unittest.main()
