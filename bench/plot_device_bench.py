#!/usr/bin/env python3
"""Draws device_bench's products as a roofline (SVG): arithmetic against memory traffic, under what the device does at best.

    build/release/bin/device_bench --table table.tsv
    bench/plot_device_bench.py table.tsv roofline.svg [--forms REGEX]

A point is a product: operations per byte of weights, and operations per second. The slanted roof is the bandwidth of a
read-only sweep of the largest memory; the flat one, the fastest product that was measured (cuBLAS's where there is one).
"""

import argparse
import csv
import math
import re
import sys
from html import escape

from svg import COLOURS, document, line, text

WIDTH, HEIGHT = 960, 600
LEFT, RIGHT, TOP, BOTTOM = 80, 700, 60, 540


def read_table(lines):
    """Rows as dictionaries, and what the comments say; numbers are floats, what is empty is 0."""
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    rows = list(csv.DictReader([line for line in lines if not line.startswith("#")], delimiter="\t"))
    for row in rows:
        for key, value in row.items():
            if key not in ("kind", "name", "shape"):
                row[key] = float(value or 0)
    return rows, comments


def decades(low, high):
    return [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


class Axes:
    """Logarithmic in both directions, in whole decades."""

    def __init__(self, xs, ys):
        self.x_ticks, self.y_ticks = decades(min(xs), max(xs)), decades(min(ys), max(ys))

    @staticmethod
    def place(value, ticks, begin, end):
        low, high = math.log10(ticks[0]), math.log10(ticks[-1])
        return begin + (math.log10(value) - low) / max(high - low, 1) * (end - begin)

    def x(self, value):
        return self.place(value, self.x_ticks, LEFT, RIGHT)

    def y(self, value):
        return self.place(value, self.y_ticks, BOTTOM, TOP)


def mark(shape, x, y, colour, title):
    around = f'fill="{colour}" fill-opacity="0.75"><title>{escape(title)}</title>'
    if shape % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {around}</circle>'
    if shape % 3 == 1:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" {around}</rect>'
    return f'<path d="M{x:.1f} {y - 5:.1f} l5 9 h-10 z" {around}</path>'


def roofline(rows, comments, forms):
    sweeps = [row for row in rows if row["kind"] == "sweep"]
    products = [row for row in rows if row["kind"] == "product" and re.search(forms, row["name"])]
    if not sweeps or not products:
        sys.exit("the table has no sweep, or no product of these forms")
    bandwidth = max(sweeps, key=lambda row: row["bytes"])["GB/s"]
    peak = max(row["Gflop/s"] for row in rows if row["kind"] == "product")
    points = [(row["Gflop/s"] / row["GB/s"], row["Gflop/s"], row) for row in products]
    axes = Axes([p[0] for p in points], [p[1] for p in points] + [peak])

    svg = [
        text(LEFT, 28, "; ".join(comments[:1]) or "CUDA device", "start", ' font-size="16"'),
        text((LEFT + RIGHT) / 2, HEIGHT - 18, "operations per byte of weights"),
        text(20, (TOP + BOTTOM) / 2, "10⁹ operations per second",
             extra=f' transform="rotate(-90 20 {(TOP + BOTTOM) / 2})"'),
    ]
    for tick in axes.x_ticks:
        svg += [line(axes.x(tick), TOP, axes.x(tick), BOTTOM, "#dddddd"), text(axes.x(tick), BOTTOM + 20, f"{tick:g}")]
    for tick in axes.y_ticks:
        svg += [line(LEFT, axes.y(tick), RIGHT, axes.y(tick), "#dddddd"),
                text(LEFT - 8, axes.y(tick) + 4, f"{tick:g}", "end")]
    # The slanted roof, from where it enters the picture to where it meets the flat one.
    begin = max(axes.x_ticks[0], axes.y_ticks[0] / bandwidth)
    knee = min(peak / bandwidth, axes.x_ticks[-1])
    if begin < knee:
        svg.append(line(axes.x(begin), axes.y(begin * bandwidth), axes.x(knee), axes.y(knee * bandwidth), "#444444", 2))
        svg.append(line(axes.x(knee), axes.y(peak), RIGHT, axes.y(peak), "#444444", 2))
        svg.append(text(axes.x(begin) + 8, axes.y(begin * bandwidth) - 12, f"{bandwidth:.0f} GB/s", "start"))
    svg.append(text(RIGHT - 4, axes.y(peak) - 8, f"{peak / 1000:.0f} · 10¹² operations/s", "end"))

    for index, name in enumerate(dict.fromkeys(row["name"] for row in products)):
        colour, shape = COLOURS[index % len(COLOURS)], index // len(COLOURS)
        for x, y, row in points:
            if row["name"] == name:
                title = f'{name}, {row["shape"]}, {row["tokens"]:.0f} tokens: {row["us"]:.4g} µs'
                svg.append(mark(shape, axes.x(x), axes.y(y), colour, title))
        if TOP + 16 * index < BOTTOM:
            svg += [mark(shape, RIGHT + 24, TOP + 16 * index, colour, name),
                    text(RIGHT + 36, TOP + 16 * index + 4, name, "start")]
    return document(WIDTH, HEIGHT, svg)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("svg")
    parser.add_argument("--forms", default=".", help="regular expression (default: all)")
    options = parser.parse_args()
    with open(options.table, encoding="utf-8") as table:
        rows, comments = read_table(table.read().splitlines())
    with open(options.svg, "w", encoding="utf-8") as svg:
        svg.write(roofline(rows, comments, options.forms))


if __name__ == "__main__":
    main()
