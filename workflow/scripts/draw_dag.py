"""Draws the workflow from Snakemake's graph of rules.

`snakemake --rulegraph dot | python workflow/scripts/draw_dag.py | dot -Tsvg > docs/dag.svg` (`make dag`). Phases go
from left to right, each with the rules of its file in workflow/rules. An edge that follows from others is left out, and
so are a rule's edge to itself and the rules that only collect targets.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

RULES = Path(__file__).resolve().parents[1] / "rules"

INPUTS = {"collections": "download_collection", "models": "download_model"}
"""What comes from outside the workflow, and the rule that fetches it."""

STYLE = """digraph workflow {
  graph [rankdir=LR, bgcolor=white, fontname="Helvetica,Arial,sans-serif", fontsize=11, fontcolor="#546e7a",
         nodesep=0.2, ranksep=0.4, margin=0.1];
  node [shape=box, style="rounded,filled", fillcolor="#ffffff", color="#78909c", penwidth=1.2,
        fontname="Helvetica,Arial,sans-serif", fontsize=12];
  edge [color="#78909c", penwidth=1.2, arrowsize=0.8];
"""

Edges = set[tuple[str, str]]


def read_rulegraph(text: str) -> Edges:
    """(rule, rule that reads its outputs), from what Snakemake prints; rules without neighbours are left out."""
    names = dict(re.findall(r'^\s*(\d+)\[label = "([^"\\]+)', text, re.MULTILINE))
    edges = re.findall(r"^\s*(\d+) -> (\d+)", text, re.MULTILINE)
    return {(names[one], names[other]) for one, other in edges if names[one] != names[other]}


def reduced(edges: Edges) -> Edges:
    """The edges that do not follow from others."""
    after: dict[str, set[str]] = {}
    for one, other in edges:
        after.setdefault(one, set()).add(other)

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for rule in after.get(waiting.pop(), set()) - found:
                found.add(rule)
                waiting.append(rule)
        return found

    longer = {one: set().union(*(reached(other) for other in others)) for one, others in after.items()}
    return {(one, other) for one, other in edges if other not in longer[one]}


def phases() -> dict[str, str]:
    """The phase of each rule: the name of its file."""
    return {
        rule: path.stem
        for path in sorted(RULES.glob("*.smk"))
        for rule in re.findall(r"^(?:rule|checkpoint) (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def picture(edges: Edges) -> str:
    """The graph in Graphviz' language."""
    phase = phases()
    drawn = reduced({edge for edge in edges if all(not rule.startswith("all") for rule in edge)})
    rules = sorted({rule for edge in drawn for rule in edge})
    lines = []
    for name, rule in INPUTS.items():
        if rule in rules:
            lines.append(f'  "input {name}" [label="{name}", shape=cylinder, style=filled, fillcolor="#e0f2f1"];')
            lines.append(f'  "input {name}" -> {rule};')
    for name in sorted({phase[rule] for rule in rules}):
        inside = " ".join(f"{rule};" for rule in rules if phase[rule] == name)
        box = 'style="rounded,filled"; color="#eceff1"; margin=6;'
        lines.append(f'  subgraph "cluster_{name}" {{ label="{name}"; {box} {inside} }}')
    lines += [f"  {one} -> {other};" for one, other in sorted(drawn)]
    return STYLE + "\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    print(picture(read_rulegraph(sys.stdin.read())), end="")
