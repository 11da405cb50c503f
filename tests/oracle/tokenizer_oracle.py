"""Compares token ids and decoded text with the PyPI package `tokenizers`.

Usage: tokenizer_oracle.py TEXT_PROBE

The tokenizers are trained here, one for each family of pre-tokenizers.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers import trainers

import text_samples

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_", "[X]", "[Y]", "[W]", "word", "    "]
TEXTS = 10_500
BROKEN_TEXTS = 1_500


def added_tokens():
    return [AddedToken("[X]", lstrip=True, normalized=False),
            AddedToken("[Y]", rstrip=True, normalized=True),
            AddedToken("[W]", lstrip=True, rstrip=True, normalized=False, special=True),
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("<|im_", normalized=True),
            AddedToken("    ", normalized=False)]


def trained(pre_tokenizer, all_bytes=True, extra=(), **model_options):
    tokenizer = Tokenizer(models.BPE(**model_options))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=3000, special_tokens=MARKS[:3], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if all_bytes else [])
    tokenizer.train_from_iterator(text_samples.training_texts(), trainer)
    if extra:
        tokenizer.add_tokens([t for t in extra if not t.special])
        tokenizer.add_special_tokens([t for t in extra if t.special])
    return json.loads(tokenizer.to_str())


def add_words(definition, words):
    """Vocabulary entries that no merge makes, found through ignore_merges alone."""
    definition["model"]["ignore_merges"] = True
    vocab = definition["model"]["vocab"]
    mapped = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for word in words:
        vocab.setdefault(mapped.pre_tokenize_str(word)[0][0], len(vocab))
    added = [t for t in definition["added_tokens"] if t["content"] not in vocab]
    for i, token in enumerate(added):
        token["id"] = len(vocab) + i


def definitions():
    """name -> tokenizer.json as an object."""
    byte_level = pre_tokenizers.ByteLevel
    sequence = pre_tokenizers.Sequence
    yield "gpt2", trained(byte_level(add_prefix_space=False))
    yield "gpt2 with a leading space, unknown token, added tokens", trained(
        byte_level(add_prefix_space=True), all_bytes=False, extra=added_tokens(),
        unk_token="<|endoftext|>")
    smollm = trained(sequence([pre_tokenizers.Digits(individual_digits=True),
                               byte_level(add_prefix_space=False)]), all_bytes=False)
    smollm["model"]["merges"] = [" ".join(pair) for pair in smollm["model"]["merges"]]
    yield "smollm, merges as strings, bytes missing", smollm
    yield "digit runs, fused unknown", trained(
        sequence([pre_tokenizers.Digits(individual_digits=False),
                  byte_level(add_prefix_space=False)]),
        all_bytes=False, unk_token="<|im_end|>", fuse_unk=True)
    llama3 = trained(sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        byte_level(add_prefix_space=False, use_regex=False)]), extra=added_tokens())
    add_words(llama3, ["Boxkämpfer", " Wenceslao", " Съ", "天地玄黄", " бул"])
    yield "llama 3, ignore_merges, added tokens", llama3
    yield "qwen2", trained(sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        byte_level(add_prefix_space=False, use_regex=False)]))
    yield "spaces removed, literal split", trained(sequence([
        pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex("[a-z]*e"), "isolated"),
        byte_level(add_prefix_space=False, use_regex=False)]))
    yield "letters kept", trained(sequence([
        pre_tokenizers.Split(Regex(r"\p{L}+|\s"), "removed", invert=True),
        byte_level(add_prefix_space=True, use_regex=False)]))


def run(command, text=""):
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.returncode}: {done.stderr}")
    return done.stdout


def ask(program, path, requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    # Not splitlines(): the answers hold U+2028 and its like.
    output = run([program, "tokenizer", str(path)], lines).split("\n")
    answers = [json.loads(line) for line in output[:-1]]
    assert len(answers) == len(requests)
    return answers


def assigned_character_texts():
    """Every character of the Unicode version that this Python knows, between others."""
    characters = [chr(c) for c in range(0x110000)
                  if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    return ["".join(f"x{c}{c}1 {c} " for c in characters[i:i + 16])
            for i in range(0, len(characters), 16)]


def check(name, reference, program, path):
    """Compares what the probe makes of the tokenizer.json at `path` with the reference."""
    all_texts = [t.encode() for t in text_samples.test_texts(TEXTS, MARKS)]
    all_texts += text_samples.broken_texts(BROKEN_TEXTS)
    characters = [t.encode() for t in assigned_character_texts()]
    failures = 0
    for parse_special in (True, False):
        texts = all_texts + (characters if parse_special else [])
        reference.encode_special_tokens = not parse_special
        requests = [{"hex": t.hex(), "parse_special": parse_special, "skip_special": parse_special}
                    for t in texts]
        answers = ask(program, path, requests)
        expected = reference.encode_batch([t.decode(errors="replace") for t in texts],
                                          add_special_tokens=False)
        for text, answer, encoding in zip(texts, answers, expected):
            decoded = bytes.fromhex(answer["decoded"]).decode(errors="replace")
            reference_text = reference.decode(encoding.ids, skip_special_tokens=parse_special)
            if (answer["ids"] != encoding.ids or decoded != reference_text
                    or answer["streamed"] != reference_text):
                failures += 1
                if failures <= 5:
                    print(f"{name}: {text!r} (special: {parse_special})\n  got  {answer}\n"
                          f"  want {encoding.ids} {reference_text!r}")
    print(f"{name}: {2 * len(all_texts) + len(characters)} comparisons, {failures} differ")
    return failures


def check_json(name, definition, program, directory):
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")
    return check(name, Tokenizer.from_file(str(path)), program, path)


def check_gguf(name, reference, gguf_path, program, directory):
    """The files made from a GGUF file against the tokenizer whose vocabulary the file holds."""
    files = json.loads(run([program, "gguf", str(gguf_path)]))
    path = directory / "tokenizer.json"
    path.write_text(files["tokenizer.json"], encoding="utf-8")
    failures = check(f"{name}, GGUF", reference, program, path)
    if "bos" in name:
        bos = Tokenizer.from_file(str(path)).encode("x").ids[0]
        failures += bos != reference.token_to_id(MARKS[1])
    # The generated file must also mean the same to its format's own library.
    generated = Tokenizer.from_file(str(path))
    reference.encode_special_tokens = False
    texts = text_samples.test_texts(2000, MARKS)
    for text in texts:
        if (generated.encode(text, add_special_tokens=False).ids
                != reference.encode(text, add_special_tokens=False).ids):
            failures += 1
            print(f"{name}: the generated file disagrees on {text!r}")
    return failures


# Hugging Face's definitions of what these values of tokenizer.ggml.pre stand for.
GGUF_PRE_TOKENIZERS = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True),
               pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                  pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)],
    "qwen2": [pre_tokenizers.Split(Regex(QWEN2), "isolated"),
              pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)],
}


def reference_from_gguf(path, pre):
    """A tokenizer put together from a GGUF file's vocabulary as the gguf package reads it."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges,
                                     ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(GGUF_PRE_TOKENIZERS[pre])
    tokenizer.decoder = decoders.ByteLevel()
    by_type = lambda kind: [t for t, k in zip(tokens, types) if k == kind]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in by_type(3)])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in by_type(4)])
    return tokenizer


def write_gguf(path, pre, definition):
    writer = gguf.GGUFWriter(path, "llama")
    vocab = definition["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    assert [vocab[t] for t in tokens] == list(range(len(tokens)))
    assert "[W]" not in vocab and "[X]" not in vocab
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + ["[W]", "[X]"])
    special = {t["content"] for t in definition["added_tokens"]}
    writer.add_token_types([3 if t in special else 1 for t in tokens] + [3, 4])
    writer.add_token_merges([" ".join(m) for m in definition["model"]["merges"]])
    writer.add_bos_token_id(vocab[MARKS[1]])
    writer.add_eos_token_id(vocab[MARKS[2]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def gguf_checks(program, directory):
    failures = 0
    for pre, steps in GGUF_PRE_TOKENIZERS.items():
        path = directory / "model.gguf"
        write_gguf(path, pre, trained(pre_tokenizers.Sequence(steps)))
        name = pre + (", bos" if pre == "llama-bpe" else "")
        failures += check_gguf(name, reference_from_gguf(path, pre), path, program, directory)
    model = os.environ.get("QUANTLOOM_TEST_MODEL")
    if model:
        reference = reference_from_gguf(model, "smollm")
        failures += check_gguf("demonstration model", reference, model, program, directory)
    else:
        print("QUANTLOOM_TEST_MODEL is not set: no comparison on the demonstration model")
    return failures


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        failures = sum(check_json(title, definition, program, directory)
                       for title, definition in definitions())
        failures += gguf_checks(program, directory)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
