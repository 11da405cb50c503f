"""Compares token ids and decoded text with the PyPI package `tokenizers`.

Usage: tokenizer_oracle.py TEXT_PROBE

The tokenizers are trained here, one for each family of pre-tokenizers.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
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


class Probe:
    def __init__(self, program, path):
        self.command = [program, "tokenizer", str(path)]

    def ask(self, requests):
        lines = "".join(json.dumps(r) + "\n" for r in requests)
        done = subprocess.run(self.command, input=lines, capture_output=True, text=True,
                              encoding="utf-8")
        if done.returncode != 0:
            raise SystemExit(f"{self.command}: {done.returncode}: {done.stderr}")
        answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
        assert len(answers) == len(requests)
        return answers


def assigned_character_texts():
    """Every character of the Unicode version that this Python knows, between others."""
    characters = [chr(c) for c in range(0x110000)
                  if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    return ["".join(f"x{c}{c}1 {c} " for c in characters[i:i + 16])
            for i in range(0, len(characters), 16)]


def compare(name, definition, program, directory):
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")
    reference = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    probe = Probe(program, path)
    all_texts = [t.encode() for t in text_samples.test_texts(TEXTS, MARKS)]
    all_texts += text_samples.broken_texts(BROKEN_TEXTS)
    characters = [t.encode() for t in assigned_character_texts()]
    failures = 0
    for parse_special in (True, False):
        texts = all_texts + (characters if parse_special else [])
        reference.encode_special_tokens = not parse_special
        requests = [{"hex": t.hex(), "parse_special": parse_special, "skip_special": parse_special}
                    for t in texts]
        answers = probe.ask(requests)
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


def main():
    program = sys.argv[1]
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        for name, definition in definitions():
            failures += compare(name, definition, program, pathlib.Path(directory))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
