#!/usr/bin/env python3
"""Writes tables and plots of docs/performance.md from what compare_peers.py measured.

    bench/performance_page.py results.json docs/performance.md

Replaces what stands between `<!-- NAME -->` and `<!-- end NAME -->`; the page's other words stay. Plots go to the page's
directory, as performance-*.svg.
"""

import argparse
import pathlib
import re
import sys

from performance_results import IK, LLAMA, OURS, PARTS, REQUIREMENTS, load, median, outcome, samples
from svg import COLOURS, bar, document, line, text

COLOUR_OF = {OURS: COLOURS[0], LLAMA: COLOURS[1], IK: COLOURS[2]}


def table(header, rows):
    """Markdown; all but the first column are right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def number(value, digits=3):
    """So many significant digits, thousands with commas; a dash for what is missing."""
    if value is None:
        return "–"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(value):
    return "–" if value is None else f"{100 * value:.0f} %"


def machine(results):
    about = results["machine"]
    lines = [f"- processor: {about['processor']}, {about['threads']} threads; "
             f"{', '.join(about['features'])}", f"- Quantloom's SIMD target: {about.get('simd', '–')}"]
    for side, features in about.get("peers", {}).items():
        on = re.findall(r"(\w+) = 1", features)
        lines.append(f"- {side} was built with: {', '.join(on)}")
    figures = [round_[c.name] for part, rounds in results["parts"].items() for round_ in rounds for c in PARTS[part]
               if c.side == OURS and c.name in round_]
    bandwidth, peak = (median([f.get(key) for f in figures]) or 0 for key in ("read bandwidth", "int8 peak"))
    lines.append(f"- memory is read at {bandwidth / 1e9:.1f} GB/s; int8 multiply-adds: {peak / 1e12:.2f} · 10¹²/s (medians)")
    return "\n".join(lines)


def requirements(results):
    rows = []
    for requirement in REQUIREMENTS:
        found = outcome(requirement, results["parts"].get(requirement.part, []))
        measured = "–" if found is None else f"**{found.ratio:.2f}** ({found.low:.2f} – {found.high:.2f})"
        peer = found.peer if found and found.peer and len(requirement.peers) > 1 else ""
        rows.append([requirement.title, requirement.part, peer, number(requirement.floor), number(requirement.aim),
                     measured, str(found.rounds) if found else "0", verdict(requirement, found)])
    return table(["", "part", "best peer", "floor", "aim", "measured", "rounds", ""], rows)


def verdict(requirement, found):
    if found is None:
        return "not measured"
    if requirement.aim is not None and found.ratio >= requirement.aim:
        return "aim"
    return "floor" if found.ratio >= requirement.floor else "**missed**"


def bits(results, contestant):
    model = results.get("models", {}).get(contestant.file)
    return number(model["bits"]) if model else "–"


def part_table(results, part):
    rounds = results["parts"].get(part, [])
    rows = []
    for contestant in PARTS[part]:
        def of(metric):
            return median(samples(rounds, contestant.name, metric))
        if of("decode 1") is None:
            continue
        row = [contestant.name, bits(results, contestant) if contestant.side == OURS else "", number(of("decode 1"))]
        if part == "codes":
            layers = linear_weights(results)
            row += [number(of("decode 1") * layers / 1e9) if layers else "–"]
        else:
            row += [number(of("decode 8")), number(of("prompt"))]
            row += [number(of("weights/s") and of("weights/s") / 1e9)]
        row += [number(of("bytes/s") and of("bytes/s") / 1e9), percent(of("bandwidth share"))]
        if part != "codes":
            row += [percent(of("head share")), percent(of("prompt int8 share"))]
        rows.append(row)
    header = ["", "bits a weight", "decode, tokens/s"]
    header += ["10⁹ linear weights/s"] if part == "codes" else ["8 sequences", "prompt of 512", "10⁹ linear weights/s"]
    header += ["GB/s", "of memory"] + ([] if part == "codes" else ["head", "prompt, of int8 peak"])
    return table(header, rows) if rows else "Not measured."


def linear_weights(results):
    """Of the models of the part `codes`, which have the same shapes."""
    for contestant in PARTS["codes"]:
        model = results.get("models", {}).get(contestant.file)
        if model:
            return model["layers"]["weights"]
    return None


def kernels(results):
    """Recipe -> tokens -> figures, of linear_bench's wide matrix."""
    recipes = {}
    for row in results.get("kernels", []):
        match = re.fullmatch(r"(.*?)(/cold)?/2048/8192/(\d+)", row["name"])
        if match:
            recipes.setdefault(match[1], {})["memory" if match[2] else match[3]] = row
    rows = []
    for recipe, cells in recipes.items():
        def cell(key, figure, scale=1e-9):
            return number(cells[key][figure] * scale) if key in cells else "–"
        rows.append([f"`{recipe}`", cell("memory", "weights/s"), cell("memory", "bytes/s"),
                     percent(cells.get("memory", {}).get("bandwidth share")), cell("1", "weights/s"),
                     cell("8", "weights/s"), cell("128", "weights/s"), percent(cells.get("128", {}).get("int8 share"))])
    return table(["2048 × 8192", "from memory, 10⁹ weights/s", "GB/s", "of memory", "in the caches", "8 rows", "128 rows",
                  "of int8 peak"], rows) if rows else "Not measured."


# --- Plots

LEFT, RIGHT, TOP, ROW = 330, 900, 70, 30


def ratio_plot(results):
    """Every requirement's ratio, with its spread, floor and aim."""
    found = [(r, outcome(r, results["parts"].get(r.part, []))) for r in REQUIREMENTS]
    found = [(r, o) for r, o in found if o is not None]
    left = 440
    top = max([o.high for _, o in found] + [r.aim or r.floor for r, _ in found], default=1) * 1.05
    height = TOP + ROW * len(found) + 40

    def x(value):
        return left + value / top * (RIGHT - left)
    svg = [text(20, 28, "Measured ratios with their spread; floor (grey) and aim (black)", "start", ' font-size="16"')]
    step = 0.5 if top < 4 else 1
    for i in range(int(top / step) + 1):
        svg += [line(x(i * step), TOP - 10, x(i * step), height - 36, "#dddddd"),
                text(x(i * step), height - 18, f"{i * step:g}")]
    for i, (requirement, o) in enumerate(found):
        y = TOP + ROW * i
        colour = COLOURS[2] if requirement.aim and o.ratio >= requirement.aim else (
            COLOURS[0] if o.ratio >= requirement.floor else COLOURS[1])
        svg += [text(left - 8, y + 13, requirement.title, "end", ' font-size="11"'),
                bar(x(0), y + 2, x(o.ratio), y + 16, colour, f"{o.ratio:.2f}"),
                line(x(o.low), y + 9, x(o.high), y + 9, "#000000", 1.5),
                line(x(requirement.floor), y - 1, x(requirement.floor), y + 19, "#777777", 3)]
        if requirement.aim:
            svg.append(line(x(requirement.aim), y - 1, x(requirement.aim), y + 19, "#000000", 3))
    return document(960, height, svg)


def speed_plot(results, part, metric, title):
    """Bars of a part's contestants."""
    rounds = results["parts"].get(part, [])
    values = [(c, median(samples(rounds, c.name, metric))) for c in PARTS[part]]
    values = [(c, value) for c, value in values if value is not None]
    top = max((value for _, value in values), default=1) * 1.1
    svg = [text(20, 28, title, "start", ' font-size="16"')]
    for i, (contestant, value) in enumerate(values):
        y, x = TOP - 20 + ROW * i, LEFT + value / top * (RIGHT - LEFT)
        svg += [text(LEFT - 8, y + 14, contestant.name, "end"),
                bar(LEFT, y, x, y + 20, COLOUR_OF[contestant.side], f"{value:.4g}"),
                text(x + 6, y + 14, number(value), "start")]
    return document(960, TOP + ROW * len(values), svg)


def replace(page, name, content):
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    if begin not in page or end not in page:
        sys.exit(f"the page has no {begin} ... {end}")
    return page[: page.index(begin) + len(begin)] + "\n" + content + "\n" + page[page.index(end):]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="compare_peers.py's file")
    parser.add_argument("page", help="docs/performance.md")
    options = parser.parse_args()
    results, path = load(options.results), pathlib.Path(options.page)
    page = path.read_text(encoding="utf-8")
    blocks = {"machine": machine(results), "requirements": requirements(results), "kernels": kernels(results)}
    blocks |= {part: part_table(results, part) for part in PARTS}
    for name, content in blocks.items():
        page = replace(page, name, content)
    plots = {"ratios": ratio_plot(results),
             "demonstration": speed_plot(results, "demonstration", "decode 1", "Decode, tokens/s: SmolLM2-135M's shapes"),
             "1b": speed_plot(results, "1b", "decode 1", "Decode, tokens/s: Llama-3.2-1B's shapes"),
             "1b-prompt": speed_plot(results, "1b", "prompt", "Prompt of 512, tokens/s: Llama-3.2-1B's shapes"),
             "codes": speed_plot(results, "codes", "decode 1", "Linear layers alone, tokens/s: Llama-3.2-1B's shapes")}
    for name, svg in plots.items():
        (path.parent / f"performance-{name}.svg").write_text(svg, encoding="utf-8")
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
