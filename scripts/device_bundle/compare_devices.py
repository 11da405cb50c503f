#!/usr/bin/env python3
"""Compares answers of `quantloom generate --json --logprobs` of two devices, file by file.

    compare_devices.py EXPECTED_DIRECTORY DIRECTORY

Values differ: a device rounds activations more coarsely. So at the places where both have read the same tokens, what
counts is the root mean square of the differences of log-probabilities, of tokens that both name among the most likely,
against their spread.
"""

import json
import math
import sys
from pathlib import Path

# Of the spread; about 2 % is expected of a random model at 2 bits.
TOLERANCE = 0.08


def places(answer):
    """For each generated token: its id, and log-probabilities by id."""
    return [(token["id"], {top["id"]: top["logprob"] for top in token["top"]}) for token in answer["tokens"]]


def compare(expected, found):
    """Places compared, tokens that agree from the first on, squares of differences, squares of the spread, values."""
    compared = agreed = values = 0
    differences = spread = 0.0
    for (expected_id, expected_top), (found_id, found_top) in zip(expected, found):
        common = expected_top.keys() & found_top.keys()
        mean = sum(expected_top.values()) / len(expected_top)
        # The level is the normalization's: what counts is how tokens stand to each other.
        shift = sum(found_top[i] - expected_top[i] for i in common) / max(len(common), 1)
        for i in common:
            differences += (found_top[i] - expected_top[i] - shift) ** 2
            spread += (expected_top[i] - mean) ** 2
            values += 1
        compared += 1
        if expected_id != found_id:
            break
        agreed += 1
    return compared, agreed, differences, spread, values


def main():
    expected, found = Path(sys.argv[1]), Path(sys.argv[2])
    models = sorted({path.name.rsplit(".", 2)[0] for path in expected.glob("*.json")})
    if not models:
        sys.exit(f"no answers in {expected}")
    failed = False
    print(f"{'model':<24} {'answers':>8} {'tokens':>8} {'agree':>8} {'difference':>11}")
    for model in models:
        totals = [0, 0, 0.0, 0.0, 0]
        answers = all_tokens = 0
        for path in sorted(expected.glob(f"{model}.*.json")):
            other = found / path.name
            try:
                pair = [places(json.loads(file.read_text(encoding="utf-8"))) for file in (path, other)]
            except (OSError, ValueError, KeyError) as error:
                print(f"{other}: {error}")
                failed = True
                continue
            answers += 1
            all_tokens += len(pair[0])
            totals = [a + b for a, b in zip(totals, compare(*pair))]
        _, agreed, differences, spread, values = totals
        ratio = math.sqrt(differences / spread) if spread > 0 else math.inf
        verdict = "" if values > 0 and ratio <= TOLERANCE else "  TOO FAR"
        failed = failed or verdict != ""
        print(f"{model:<24} {answers:>8} {all_tokens:>8} {agreed:>8} {100 * ratio:>10.3f}%{verdict}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
