"""Draws docs/efficiency-h200.svg: nDCG@10 of the table in README.md against the speeds of efficiency-h200.json.

`python benchmarks/efficiency_figure.py`. `ssmrank measure speed` measured the speeds, on models with the shapes of the
default experiment's rerankers. `results/figures/efficiency.pdf` is the same figure for one machine.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ssmrank.reporting.efficiency_figure import Point, draw_efficiency

ROOT = Path(__file__).resolve().parents[1]
TRAININGS = {"FirstP (64)": "firstp", "LongP (192)": "longp"}
SPEEDS = {"MiniLM-L6": "minilm", **{f"{name}-mini": f"{name.lower()}-mini" for name in ("BERT", "OPT", "Llama")}}
SPEEDS |= {"Mamba-1-mini": "mamba1-mini", "Mamba-2-mini": "mamba2-mini"}


def quality() -> dict[tuple[str, str], float]:
    """nDCG@10 of each trained reranker of README.md's table, by its label and length."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- table4 -->")[1]
    found = {}
    for line in table.splitlines():
        cells = [re.sub(r"<sup>.*?</sup>|[*†‡]", "", cell).strip() for cell in line.strip("| ").split("|")]
        if len(cells) > 4 and cells[0] in SPEEDS and cells[3] in TRAININGS:
            found[cells[0], cells[3]] = float(cells[4]) / 100
    return found


def main() -> None:
    """Draws the figure."""
    speeds = json.loads((ROOT / "benchmarks/results/efficiency-h200.json").read_text(encoding="utf-8"))
    points, places = [], set()
    for (label, length), value in quality().items():
        speed = speeds[f"{TRAININGS[length]}/{SPEEDS[label]}"]
        reuse = speed["reuse"] and speed["reuse"]["pairs_per_second"]
        points.append(Point(f"{label}, {length}", value, speed["whole"]["pairs_per_second"], reuse))
        places.add(f"{speed['device']}, {speed['precision']}")
    caption = f"Semanlink, test. {'; '.join(sorted(places))}"
    draw_efficiency(points, "nDCG@10", caption, ROOT / "docs/efficiency-h200.svg")


if __name__ == "__main__":
    main()
