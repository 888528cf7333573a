"""Figure 1: training throughput against batch size."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.reporting.plotting import plotting, save

_NEEDED = ("model", "implementation", "precision", "batch", "device", "tokens_per_second")

_LINES = {"ssmrank": "-", "transformers": "--"}


@dataclass(frozen=True)
class Throughput:
    """A point of Figure 1: training tokens per second at a batch size; None where memory ran out."""

    model: str
    implementation: str
    batch: int
    tokens_per_second: float | None


def read_throughput(path: Path) -> tuple[list[Throughput], str]:
    """Reads the points of a benchmark's CSV, and what it ran on ("device, precision").

    Raises UserError where there is no line, a column is missing, or a number is malformed.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    if not rows:
        raise UserError(f"{path}: has no measurement; make it with benchmarks/training.py --suite figure1")
    missing = [name for name in _NEEDED if name not in rows[0]]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; make it with benchmarks/training.py --suite figure1")
    points = []
    for line, row in enumerate(rows, start=2):
        if row.get("benchmark", "figure1") != "figure1":
            continue  # a line of another suite in the same file
        batch, speed = row["batch"].split(" x ")[0], row["tokens_per_second"]
        try:
            points.append(Throughput(row["model"], row["implementation"], int(batch), float(speed) if speed else None))
        except ValueError as error:
            raise UserError(f"{path}:{line}: batch {row['batch']!r} or speed {speed!r} is not a number") from error
    return points, f"{rows[0]['device']}, {rows[0]['precision']}"


def draw_throughput(points: list[Throughput], caption: str, output: Path) -> None:
    """Draws training throughput against batch size, a line for each model, with "OOM" where memory ran out."""
    lines: dict[tuple[str, str], list[Throughput]] = defaultdict(list)
    for point in sorted(points, key=lambda point: point.batch):
        lines[point.model, point.implementation].append(point)
    batches = sorted({point.batch for point in points})
    colours = {model: f"C{place}" for place, model in enumerate(dict.fromkeys(model for model, _ in lines))}
    several = len({implementation for _, implementation in lines}) > 1
    with plotting() as pyplot:
        figure, axes = pyplot.subplots(figsize=(7.4 if several else 5.2, 3.4), layout="constrained")
        for (model, implementation), measured in lines.items():
            label = f"{model}, {implementation}" if several else model
            known = [(batches.index(p.batch), p.tokens_per_second) for p in measured if p.tokens_per_second is not None]
            line = _LINES.get(implementation, ":")
            places, speeds = zip(*known, strict=True) if known else ((), ())
            axes.plot(places, speeds, label=label, marker="o", markersize=4, color=colours[model], linestyle=line)
            for point in measured:
                if point.tokens_per_second is None:
                    place = (batches.index(point.batch), 0)
                    axes.annotate("OOM", place, color=colours[model], ha="center", va="bottom", fontsize=7)
        axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("batch size (sequences of 512 tokens)")
        axes.set_ylabel("training throughput (tokens/s)")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.set_title(caption, fontsize=8)
        beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if several else {}
        axes.legend(fontsize=7, frameon=False, **beside)
        save(figure, [output])
