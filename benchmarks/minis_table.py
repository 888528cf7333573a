"""Puts the short table of the minis into README.md, from the CSV files in benchmarks/results.

`python benchmarks/minis_table.py` after `results/tables/table12.csv`, `table12-zero-shot.csv` and `table13.csv`
were copied there.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
COLUMNS = {
    "held-out titles": "Held-out titles MRR@10",
    "Semanlink": "Semanlink nDCG@10",
    "NFCorpus": "NFCorpus nDCG@10",
    "SciFact": "SciFact nDCG@10",
    "Cranfield": "Cranfield nDCG@10",
}
SECTIONS = ("First stage", "Distilled", "Distilled, fused with BM25")


def rows() -> dict[str, dict[str, str]]:
    """For each model of the sections its value in each column; an arrow is BM25's test."""
    found: dict[str, dict[str, str]] = {}
    for name in ("table12", "table12-zero-shot", "table13"):
        with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["section"] in SECTIONS:
                    values = found.setdefault(row["model"], {})
                    for title, column in COLUMNS.items():
                        if row.get(column):
                            values[title] = row[column] + row.get(f"{column} (significance)", "")
    return found


def table() -> str:
    """The table in Markdown."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "| --- |" + " --: |" * len(COLUMNS)]
    lines += [f"| {name} | {' | '.join(values[title] for title in COLUMNS)} |" for name, values in rows().items()]
    note = "↑ and ↓: significantly above and below BM25 (paired randomization, p < 0.05 after Holm's correction)."
    return "\n".join([*lines, "", note])


def main() -> None:
    """Rewrites README.md between its two marks."""
    path = ROOT / "README.md"
    begin, end = "<!-- minis -->\n", "<!-- end of minis -->"
    new = f"{begin}{table()}\n{end}"
    text = re.sub(f"{begin}.*?{end}", lambda _: new, path.read_text(encoding="utf-8"), flags=re.S)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
