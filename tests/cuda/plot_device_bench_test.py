"""Whether bench/plot_device_bench.py puts a table's products where they belong."""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "plot_device_bench.py"
HEADER = ("kind name shape tokens bytes us sweep_us t0_us GB/s share Gflop/s fp16_us speedup wall_us tokens/s".split())
ROWS = [
    {"kind": "sweep", "name": "read", "shape": "256MiB", "tokens": 0, "bytes": 1 << 28, "us": 100, "GB/s": 2000},
    {"kind": "product", "name": "icquant-2", "shape": "4096x4096", "tokens": 1, "us": 5, "GB/s": 1000, "Gflop/s": 7000},
    {"kind": "product", "name": "cublas", "shape": "4096x4096", "tokens": 512, "us": 9, "GB/s": 300, "Gflop/s": 90000},
    {"kind": "decode", "name": "icquant-2", "shape": "llama", "tokens": 1, "us": 5000, "GB/s": 900, "Gflop/s": 6000},
]


def main():
    with tempfile.TemporaryDirectory() as directory:
        table, svg = Path(directory) / "table.tsv", Path(directory) / "roofline.svg"
        lines = ["\t".join(HEADER), "# Some Device"] + [
            "\t".join(str(row.get(column, "")) for column in HEADER) for row in ROWS]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
        subprocess.run([sys.executable, SCRIPT, table, svg], check=True)
        picture = ElementTree.parse(svg).getroot()
        subprocess.run([sys.executable, SCRIPT, table, svg, "--forms", "icquant"], check=True)
        only_one = ElementTree.parse(svg).getroot()
        none = subprocess.run([sys.executable, SCRIPT, table, svg, "--forms", "nothing"], capture_output=True, check=False)
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in picture.iter(name + "text")]
    assert "Some Device" in texts, texts
    assert "2000 GB/s" in texts and "90 · 10¹² operations/s" in texts, texts
    # A mark for each product and for each line of the legend; the slower of the two lies lower, further left.
    marks = list(picture.iter(name + "circle"))
    assert len(marks) == 4, len(marks)
    quantized, cublas = marks[0], marks[2]
    assert float(quantized.get("cx")) < float(cublas.get("cx"))
    assert float(quantized.get("cy")) > float(cublas.get("cy"))
    assert len(list(only_one.iter(name + "circle"))) == 2
    assert none.returncode != 0 and b"no product" in none.stderr, none


if __name__ == "__main__":
    main()
