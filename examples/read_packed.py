#!/usr/bin/env python3
"""Reads a Quantloom packed model with nothing but numpy: a second implementation of
docs/packed-format.md and docs/icquant.md, to check them by and to start others from.

    read_packed.py DIRECTORY                      lists the tensors
    read_packed.py DIRECTORY TENSOR OUT.npy       decodes one to float32
    read_packed.py DIRECTORY --verify             compares every plane with its SHA-256
"""

import hashlib
import json
import os
import sys

import numpy as np

DTYPES = {"U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32,
          "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
          "BF16": np.uint16}  # BF16: the upper halves of float32


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_safetensors(path):
    """name -> (dtype name, array), arrays viewing the mapped file."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8:8 + size].tobytes())
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        array = data[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], array)
    return tensors


def read_manifest(path):
    with open(path, "rb") as file:
        text = file.read()
    manifest = json.loads(text)
    if manifest["format"] != "quantloom-packed" or manifest["format_version"] != 1:
        raise ValueError(f"{path}: not a packed model of version 1")
    covered = text[:-len(',\n  "sha256": "' + 64 * "x" + '"\n}\n')]
    if hashlib.sha256(covered).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{path}: the text does not match its SHA-256")
    return manifest


def parse_recipe(text):
    codec, _, options = text.partition(":")
    return codec, dict(option.split("=") for option in options.split(",") if option)


def unpack_block(block, width, bits):
    """A block's codes [rows, width] from its bytes [rows, m]."""
    column = np.arange(width)
    m = block.shape[1]
    return (block[:, column % m] >> (column // m * bits).astype(np.uint8)) & (2**bits - 1)


def unpack_codes(plane, rows, cols, bits):
    parts = [2, 1] if bits == 3 else [bits]  # 3 bits: the low two, then the high one
    row_bytes = sum((min(64, cols - c) * b + 7) // 8 for c in range(0, cols, 64) for b in parts)
    stored = plane[:rows * row_bytes].reshape(rows, row_bytes)
    codes = np.zeros((rows, cols), dtype=np.uint8)
    at = 0
    for c in range(0, cols, 64):
        width = min(64, cols - c)
        shift = 0
        for b in parts:
            m = (width * b + 7) // 8
            codes[:, c:c + width] |= unpack_block(stored[:, at:at + m], width, b) << shift
            at += m
            shift += b
    return codes


def outlier_mask(planes, rows, cols, index_bits):
    """True where a weight is an outlier: the gap stream, all segments at once."""
    segments = (cols + 255) // 256
    counts = planes["index_counts"][:rows * segments].astype(np.int64)
    total = int(counts.sum())
    bits = np.unpackbits(planes["index"], bitorder="little")[:total * index_bits]
    symbols = bits.reshape(total, index_bits).astype(np.int64) @ (1 << np.arange(index_bits))
    steps = np.where(symbols == 0, 2**index_bits - 1, symbols)
    segment = np.repeat(np.arange(rows * segments), counts)
    before = np.concatenate([[0], np.cumsum(steps)])
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    column = segment % segments * 256 - 1 + before[1:] - before[first[segment]]
    mask = np.zeros((rows, cols), dtype=bool)
    found = symbols != 0
    mask[segment[found] // segments, column[found]] = True
    return mask


def levels(planes, rows, bits, parts, options):
    """The value of every code, float32 [rows, parts, 2**bits]."""
    form, count = options["codebook"], 2**bits
    if form == "fp16":
        return planes["codebook"][:rows * parts * count].reshape(rows, parts, count).astype(np.float32)
    if form == "range":
        ranges = planes["range"].astype(np.float32)
        ranges = ranges[:rows * (3 if parts == 2 else 1) * 2].reshape(rows, -1, 2)
        code = np.arange(count, dtype=np.float32)
        half = count // 2
        lines = [(0, code)] if parts == 1 else [(0, code), (1, code[:half]), (2, code[:half])]
        values = [ranges[:, i, :1] + ranges[:, i, 1:] * c for i, c in lines]
        return np.concatenate(values, axis=1).reshape(rows, parts, count)
    if bits == 8:
        q = np.arange(256).astype(np.uint8).view(np.int8).reshape(1, 1, 256)
    elif form == "int8":
        q = planes["codebook"][:rows * parts * count].reshape(rows, parts, count)
    else:
        q = planes["codebook"][:parts * count].reshape(1, parts, count)
    scale = from_bf16(planes["scale"])[:rows].reshape(rows, 1, 1)
    values = scale * q.astype(np.float32)
    if "offset" in planes:
        values = values + from_bf16(planes["offset"])[:rows].reshape(rows, 1, 1)
    return values


def decode_icquant(planes, rows, cols, options):
    bits = int(options["bits"])
    parts = 2 if "index" in planes else 1
    codes = unpack_codes(planes["codes"], rows, cols, bits)
    part = np.zeros((rows, cols), dtype=np.uint8)
    if parts == 2:
        part[outlier_mask(planes, rows, cols, int(options["index_bits"]))] = 1
    values = levels(planes, rows, bits, parts, options)
    return values[np.arange(rows)[:, None], part, codes]


class PackedModel:
    def __init__(self, directory):
        self.manifest = read_manifest(os.path.join(directory, "quantloom.json"))
        self.tensors = {tensor["name"]: tensor for tensor in self.manifest["tensors"]}
        with open(os.path.join(directory, "model.safetensors.index.json")) as file:
            weight_map = json.load(file)["weight_map"]
        self.stored = {}
        for shard in sorted(set(weight_map.values())):
            self.stored.update(read_safetensors(os.path.join(directory, shard)))

    def plane(self, tensor, plane):
        return self.stored[tensor["name"] + ("." + plane["name"] if plane["name"] else "")]

    def decode(self, name):
        tensor = self.tensors[name]
        if tensor["recipe"] == "raw":
            dtype, array = self.plane(tensor, tensor["planes"][0])
            return from_bf16(array) if dtype == "BF16" else array.astype(np.float32)
        codec, options = parse_recipe(tensor["recipe"])
        if codec != "icquant" or options["inner"] in ("trellis", "e8p") or options.get("incoherence", "none") != "none":
            raise ValueError(f"{name}: this reader does not know {tensor['recipe']}")
        planes = {plane["name"]: self.plane(tensor, plane)[1] for plane in tensor["planes"]}
        rows, cols = tensor["shape"]
        return decode_icquant(planes, rows, cols, options)

    def verify(self):
        for tensor in self.manifest["tensors"]:
            for plane in tensor["planes"]:
                digest = hashlib.sha256(self.plane(tensor, plane)[1].tobytes()).hexdigest()
                if digest != plane["sha256"]:
                    raise ValueError(f"{tensor['name']}: plane '{plane['name']}' does not match its SHA-256")


def main(arguments):
    if len(arguments) not in (1, 2, 3):
        sys.exit(__doc__)
    model = PackedModel(arguments[0])
    if len(arguments) == 3:
        np.save(arguments[2], model.decode(arguments[1]))
    elif len(arguments) == 2:
        model.verify()
        print("every plane matches")
    else:
        for tensor in model.tensors.values():
            shape = " x ".join(map(str, tensor["shape"]))
            print(f"{tensor['name']:48} {shape:>14} {tensor['bits_per_weight']:7.3f} b/w  {tensor['recipe']}")
        print(f"{model.manifest['bits_per_weight']:.3f} bits per weight, {model.manifest['packed_bytes']} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
