"""Compares what ptxas says of every kernel with a committed table: no spills, registers as they were.

    registers_test.py NVCC TABLE SOURCE...            fails where they differ
    registers_test.py --write NVCC TABLE SOURCE...    writes the table

Register counts are the compiler's, so they are compared only under the toolkit that the table names; spills are never
allowed. For compute capability 9.0.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>[^']+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def toolkit(nvcc):
    version = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"release (\S+),", version).group(1)


def short(mangled):
    name = subprocess.run(["c++filt", mangled], check=True, capture_output=True, text=True).stdout
    name = re.sub(r"\(anonymous namespace\)::|quantloom::cuda::|^void ", "", name.strip())
    return re.sub(r"\([^()]*\)$", "", name)


def kernels(nvcc, source):
    """(name, registers, spilled bytes) of every kernel in a file."""
    command = [nvcc, "-std=c++20", "-O3", "-arch=sm_90", f"-I{ROOT}", "-Xptxas=-v", "-c", source, "-o", "/dev/null"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return [
        (short(entry["name"]), int(entry["registers"]), int(entry["stores"]) + int(entry["loads"]))
        for entry in ENTRY.finditer(output)
    ]


def main(arguments):
    write = arguments[0] == "--write"
    nvcc, table, *sources = arguments[1:] if write else arguments
    found = sorted(kernel for source in sources for kernel in kernels(nvcc, source))
    if not found:
        sys.exit("no kernel found in ptxas's output")
    spilled = [f"{name}: {spill} bytes" for name, _, spill in found if spill > 0]
    if spilled:
        sys.exit("kernels spill registers:\n  " + "\n  ".join(spilled))
    rows = [f"toolkit\t{toolkit(nvcc)}"] + [f"{name}\t{registers}" for name, registers, _ in found]
    if write:
        Path(table).write_text("\n".join(rows) + "\n", encoding="utf-8")
        return
    expected = Path(table).read_text(encoding="utf-8").splitlines()
    if expected[0] != rows[0]:
        print(f"no spills; registers not compared: the table is of {expected[0]}, this is {rows[0]}")
    elif expected != rows:
        changed = sorted(set(rows) ^ set(expected))
        sys.exit(f"registers differ from {table} (run with --write if that is meant):\n  " + "\n  ".join(changed))


if __name__ == "__main__":
    main(sys.argv[1:])
