"""The randomized Hadamard transform against a second one, written from docs/incoherence.md, bit for bit.

Usage: incoherence_oracle.py INCOHERENCE_PROBE DOCS_DIRECTORY
"""

import pathlib
import re
import subprocess
import sys

import numpy as np

SIZES = [1, 2, 3, 6, 7, 12, 17, 100, 192, 208, 368, 464, 576, 624, 640, 688, 976, 1000, 1536, 4864, 8192, 8640, 9984, 11008,
         13696, 14784]
MASK = 2**64 - 1


def williamson_rows(page):
    """{d: four first rows}, read from the page itself."""
    rows, d = {}, None
    for match in re.finditer(r"^ {7}(\d\d|  ) ([ABCD]) ([+-]+)$", page, re.MULTILINE):
        d = int(match[1]) if match[1].strip() else d
        rows.setdefault(d, []).append([1 if c == "+" else -1 for c in match[3]])
    return rows


def signs(seed, count):
    out, state = [], seed
    while len(out) < count:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        z ^= z >> 31
        out += [-1 if z >> bit & 1 else 1 for bit in range(64)]
    return np.array(out[:count], dtype=np.float32)


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def jacobsthal(q):
    """Q(i, j) = chi(i - j) in the field of q elements, q a prime or the square of one."""
    root = round(q**0.5)
    p = root if root * root == q else q
    squares = {a * a % p for a in range(1, p)}
    chi = [0] + [1 if a in squares else -1 for a in range(1, p)]
    if p == q:
        return np.array([[chi[(i - j) % p] for j in range(q)] for i in range(q)])
    r = next(a for a in range(1, p) if chi[a] == -1)
    return np.array([[chi[((i % p - j % p) ** 2 - r * (i // p - j // p) ** 2) % p] for j in range(q)] for i in range(q)])


def small_matrix(d, williamson):
    """The matrix of order 4 d, or None."""
    def bordered(q, left):
        s = np.ones((q + 1, q + 1), dtype=int)
        s[0, 0], s[1:, 0], s[1:, 1:] = 0, left, jacobsthal(q)
        return s

    q = 4 * d - 1
    if is_prime(q):
        return np.eye(q + 1, dtype=int) + bordered(q, -1)
    q = 2 * d - 1
    root = round(q**0.5)
    if is_prime(q) or (root * root == q and is_prime(root)):
        return np.kron(bordered(q, 1), [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1, dtype=int), [[1, -1], [-1, -1]])
    if d in williamson:
        a, b, c, e = [np.array([np.roll(row, i) for i in range(d)]) for row in williamson[d]]
        return np.block([[a, b, c, e], [-b, a, -e, c], [-c, e, a, -b], [-e, -c, b, a]])
    return None


def splits(d, possible, limit):
    """Every way to write d as a non-increasing product of possible numbers up to `limit`."""
    if d == 1:
        yield []
    for first in possible:
        if first <= limit and d % first == 0:
            for rest in splits(d // first, possible, first):
                yield [first] + rest


def factors(n, possible):
    """(the d of each small matrix, the order of Sylvester's)."""
    k = (n & -n).bit_length() - 1
    p = n >> k
    for divisor in sorted((d for d in range(1, p + 1) if p % d == 0), reverse=True):
        found = [s for s in splits(divisor, possible, divisor) if 2 * len(s) <= k]
        if found:
            best = min(found, key=lambda s: (len(s), [-d for d in s]))
            return best, 2 ** (k - 2 * len(best))
    raise AssertionError("1 always has a split")


def multiply_small(matrix, x):
    """matrix @ x in the documented order of additions; x is [blocks, order, inner]."""
    order = len(matrix)
    m = matrix.astype(np.float32)
    out = np.empty_like(x)
    for i in range(order):
        total = None
        for g in range(0, order, 4):
            t = (m[i, g] * x[:, g] + m[i, g + 1] * x[:, g + 1]) + (m[i, g + 2] * x[:, g + 2] + m[i, g + 3] * x[:, g + 3])
            total = t if total is None else total + t
        out[:, i] = total
    return out


def transform(x, matrices, power, sign, transposed):
    block = power * int(np.prod([len(m) for m in matrices], dtype=int))
    x = x if transposed else x * sign
    distance = 1
    while distance < power:
        pairs = x.reshape(-1, 2, distance)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        distance *= 2
    inner = power
    for matrix in reversed(matrices):
        x = multiply_small(matrix.T if transposed else matrix, x.reshape(-1, len(matrix), inner)).reshape(-1)
        inner *= len(matrix)
    x = x * np.float32(1 / np.sqrt(np.float64(block)))
    return x * sign if transposed else x


def main():
    probe, docs = sys.argv[1], pathlib.Path(sys.argv[2])
    williamson = williamson_rows((docs / "incoherence.md").read_text(encoding="utf-8"))
    small = {d: small_matrix(d, williamson) for d in range(3, 64, 2)}
    possible = [d for d, matrix in small.items() if matrix is not None]
    for d in possible:
        assert (small[d] @ small[d].T == 4 * d * np.eye(4 * d)).all(), d
    for size in SIZES:
        for blocks in ["full", "128"]:
            seed = 0xFEDCBA9876543210 + size
            odds, power = factors(size, possible) if blocks == "full" else ([], min(size & -size, 128))
            output = subprocess.run([probe, str(size), blocks, str(seed)], check=True, stdout=subprocess.PIPE, text=True).stdout
            lines = [np.array([float.fromhex(v) for v in line.split()], dtype=np.float32) for line in output.splitlines()]
            x = (np.arange(size, dtype=np.int64) ** 2 % 101 - 50).astype(np.float32)
            for transposed in [False, True]:
                want = transform(x, [small[d] for d in odds], power, signs(seed, size), transposed)
                got = lines[int(transposed)]
                assert got.shape == want.shape, (size, blocks)
                different = np.flatnonzero(got != want)
                assert different.size == 0, (size, blocks, transposed, different[:5], got[different[:5]], want[different[:5]])
    print(f"{len(SIZES)} lengths, both block options and directions: every bit equal")


if __name__ == "__main__":
    main()
