"""Packed models against independent readers: the `safetensors` package on their shards, and
examples/read_packed.py on their values.

Usage: packed_oracle.py path/to/format_probe path/to/examples
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import safetensors
import safetensors.numpy

PROBE = None
# Every form of a codebook, every code width, with and without outliers and offsets.
RECIPES = [f"icquant:bits={bits},outliers={outliers},inner={inner},codebook={codebook}"
           for bits in (1, 2, 3, 4) for outliers in ("0", "0.05")
           for inner, codebook in (("rtn", "range"), ("kmeans", "fp16"), ("kmeans", "tensor"))]
RECIPES += [f"icquant:bits={bits},outliers=0.1,inner=kmeans,codebook=int8,offset={offset},index_bits={index_bits}"
            for bits, offset, index_bits in ((1, "row", 2), (2, "none", 4), (3, "row", 6), (4, "none", 8))]
RECIPES += ["icquant:bits=8,outliers=0", "icquant:bits=8,outliers=0.05", "icquant:bits=2"]


def probe(*args):
    result = subprocess.run([PROBE, *map(str, args)], check=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout)


def write_source(directory, rng):
    # Hidden and intermediate sizes that are no multiples of 64, the latter over one segment of 256 columns.
    hidden, intermediate, vocabulary = 72, 300, 40
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
              "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 1,
              "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 8, "max_position_embeddings": 64,
              "tie_word_embeddings": False}
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,),
              "lm_head.weight": (vocabulary, hidden)}
    layer = {"input_layernorm": (hidden,), "self_attn.q_proj": (72, hidden), "self_attn.k_proj": (24, hidden),
             "self_attn.v_proj": (24, hidden), "self_attn.o_proj": (hidden, 72),
             "post_attention_layernorm": (hidden,), "mlp.gate_proj": (intermediate, hidden),
             "mlp.up_proj": (intermediate, hidden), "mlp.down_proj": (hidden, intermediate)}
    shapes.update({f"model.layers.0.{name}.weight": shape for name, shape in layer.items()})
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file)
    arrays = {name: (rng.standard_t(4, size=shape) / 16).astype(np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(arrays, os.path.join(directory, "model.safetensors"))
    return arrays


class Packed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        cls.source = os.path.join(cls.directory.name, "source")
        os.mkdir(cls.source)
        cls.arrays = write_source(cls.source, np.random.default_rng(4))

    def pack(self, recipe, name):
        packed = os.path.join(self.directory.name, name)
        probe("pack", self.source, packed, recipe, "icquant:bits=8,outliers=0")
        return packed

    def test_the_example_decodes_every_form_to_the_same_bits(self):
        for i, recipe in enumerate(RECIPES):
            with self.subTest(recipe):
                packed = self.pack(recipe, f"packed-{i}")
                model = read_packed.PackedModel(packed)
                model.verify()
                expected = probe("packed", packed)
                self.assertEqual(set(expected), set(self.arrays))
                for name, array in self.arrays.items():
                    decoded = model.decode(name)
                    self.assertEqual(decoded.shape, array.shape)
                    self.assertEqual(decoded.dtype, np.float32)
                    digest = hashlib.sha256(np.ascontiguousarray(decoded).tobytes()).hexdigest()
                    self.assertEqual(digest, expected[name], name)
                    # Even one bit without outliers keeps this much of these heavy-tailed weights.
                    correlation = np.corrcoef(decoded.ravel(), array.ravel())[0, 1]
                    self.assertGreater(correlation, 0.5, name)

    def test_the_safetensors_package_reads_the_shards(self):
        packed = self.pack("icquant:bits=2,outliers=0.05", "packed")
        with open(os.path.join(packed, "quantloom.json")) as file:
            manifest = json.load(file)
        with open(os.path.join(packed, "model.safetensors.index.json")) as file:
            weight_map = json.load(file)["weight_map"]
        self.assertEqual(set(weight_map.values()), {"model-00001-of-00001.safetensors"})
        shard = os.path.join(packed, "model-00001-of-00001.safetensors")
        head = pathlib.Path(shard).read_bytes()
        size = int.from_bytes(head[:8], "little")
        self.assertEqual((8 + size) % 64, 0)
        header = json.loads(head[8:8 + size])
        total = 0
        with safetensors.safe_open(shard, framework="np") as file:
            self.assertEqual(set(file.keys()), set(weight_map))
            for tensor in manifest["tensors"]:
                stored = 0
                for plane in tensor["planes"]:
                    name = tensor["name"] + ("." + plane["name"] if plane["name"] else "")
                    begin, end = header[name]["data_offsets"]
                    self.assertEqual((8 + size + begin) % 64, 0)
                    self.assertEqual(file.get_slice(name).get_shape(), plane["shape"])
                    stored += end - begin
                    if (end - begin) % 64:
                        padding = file.get_tensor(name + ".__pad")
                        self.assertEqual(padding.dtype, np.uint8)
                        self.assertFalse(padding.any())
                        stored += padding.size
                weights = np.prod(tensor["shape"])
                self.assertAlmostEqual(tensor["bits_per_weight"], 8 * stored / weights, places=9)
                self.assertAlmostEqual(sum(tensor["bits"].values()), 8 * stored / weights, places=6)
                total += stored
        self.assertEqual(manifest["packed_bytes"], total)
        config = pathlib.Path(packed, "config.json").read_bytes()
        self.assertEqual(manifest["files"]["config.json"],
                         {"bytes": len(config), "sha256": hashlib.sha256(config).hexdigest()})

    def test_the_example_notices_damage(self):
        packed = self.pack("icquant:bits=2,outliers=0.05", "damaged")
        shard = os.path.join(packed, "model-00001-of-00001.safetensors")
        with open(shard, "r+b") as file:
            file.seek(-100, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-100, os.SEEK_END)
            file.write(bytes([byte ^ 1]))
        with self.assertRaises(ValueError):
            read_packed.PackedModel(packed).verify()
        manifest = os.path.join(packed, "quantloom.json")
        with open(manifest) as file:
            text = file.read()
        with open(manifest, "w") as file:
            file.write(text.replace('"seed": 0', '"seed": 1'))
        with self.assertRaises(ValueError):
            read_packed.PackedModel(packed)


if __name__ == "__main__":
    PROBE = sys.argv.pop(1)
    sys.path.insert(0, sys.argv.pop(1))
    import read_packed
    unittest.main()
