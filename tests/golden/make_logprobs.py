#!/usr/bin/env python3
"""Per-token log-probabilities of the demonstration model, computed by llama.cpp in F32.

Writes smollm2_logprobs.json beside this script: windows of token ids of tests/data/prose.txt, each
evaluated from an empty context, and log p(token[i] | token[0..i-1]) for i >= 1 in nats. The model's
quantized weights are expanded to F32 first and the KV cache is F32, so that only rounding of single
precision arithmetic separates this from any other implementation.

    python -m venv venv && venv/bin/pip install numpy gguf==0.19.0 llama-cpp-python==0.3.16
    venv/bin/python tests/golden/make_logprobs.py SmolLM2-135M-Instruct.Q4_1.gguf
"""

import argparse
import json
import pathlib
import tempfile

import gguf
import llama_cpp
import numpy as np

WINDOW = 512
WINDOWS = 4
HERE = pathlib.Path(__file__).resolve().parent


def copy_field(writer: gguf.GGUFWriter, field: gguf.ReaderField) -> None:
    kind = field.types[0]
    element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), kind, sub_type=element)


def expand_to_f32(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a GGUF file with every tensor dequantized."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, arch=reader.fields["general.architecture"].contents())
    skipped = ("GGUF.", "general.architecture", "general.file_type")
    for name, field in reader.fields.items():
        if not name.startswith(skipped):
            copy_field(writer, field)
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def window_logprobs(model: llama_cpp.Llama, tokens: list[int]) -> list[float]:
    model.reset()
    model.eval(tokens)
    logits = np.asarray(model.scores[: len(tokens) - 1], dtype=np.float64)
    peak = logits.max(axis=1, keepdims=True)
    normalizer = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1))
    picked = logits[np.arange(len(tokens) - 1), tokens[1:]]
    return [round(float(x), 6) for x in picked - normalizer]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="the quantized GGUF file")
    args = parser.parse_args()
    text = (HERE.parent / "data" / "prose.txt").read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        expanded = pathlib.Path(scratch) / "f32.gguf"
        expand_to_f32(args.model, expanded)
        model = llama_cpp.Llama(
            str(expanded), n_ctx=WINDOW, n_batch=WINDOW, n_ubatch=WINDOW, n_threads=1, logits_all=True,
            flash_attn=False, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False)
        tokens = model.tokenize(text, add_bos=False, special=False)
        windows = []
        for start in range(0, WINDOW * WINDOWS, WINDOW):
            window = tokens[start : start + WINDOW]
            assert len(window) == WINDOW, f"the text has only {len(tokens)} tokens"
            windows.append({"tokens": window, "logprobs": window_logprobs(model, window)})
    path = HERE / "smollm2_logprobs.json"
    path.write_text(json.dumps({"windows": windows}, separators=(",", ":")) + "\n")
    mean = np.mean([x for window in windows for x in window["logprobs"]])
    print(f"{path}: {len(windows)} windows, mean log-probability {mean:.4f}")


if __name__ == "__main__":
    main()
