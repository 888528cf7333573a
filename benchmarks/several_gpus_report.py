"""Results of several_gpus.py, written to files at once, so that nothing is lost if a process dies later."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import Measurement


@dataclass
class Row(Measurement):
    """A line of the CSV; `batch` is per GPU, while tokens, pairs and speeds are those of all GPUs together."""

    cards: int = 1
    communication: float | None = None
    """Share of a step in which a GPU runs NCCL's kernels: the smallest of all GPUs, as they wait for one another."""
    reserved_mib: float | None = None
    """The most that PyTorch held of a GPU's memory; `peak_memory_mib` is what it used of that."""
    pairs: int = 0
    pairs_per_second: float | None = None


class Report:
    """Prints and writes results: speeds to a CSV, checks and finished parts to `folder`."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.folder, self.output = folder, output

    def speed(self, row: Row) -> None:
        """Records a measured speed."""
        fresh = not self.output.exists()
        with self.output.open("a", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(asdict(row)), lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow({key: "" if value is None else value for key, value in asdict(row).items()})
        print(f"  {_line(row)}", flush=True)

    def check(self, name: str, passed: bool, text: str) -> None:
        """Records the outcome of a check."""
        self._add("checks", {"name": name, "passed": passed, "text": text})
        print(f"  {'ok    ' if passed else 'FAILED'} {name}: {text}", flush=True)

    def done(self, part: str) -> None:
        """Records that a part has ended."""
        self._add("done", {"part": part})

    @property
    def parts_done(self) -> list[str]:
        return [record["part"] for record in self._records("done")]

    def print_summary(self) -> bool:
        """Prints speeds side by side, then the checks; returns whether all checks passed."""
        rows = _read(self.output) if self.output.exists() else []
        print()
        for row in sorted(rows, key=lambda row: (row.benchmark, row.model, row.batch)):
            print(_line(row) + _gains(row, rows))
        checks = list(self._records("checks"))
        for check in checks:
            print(f"{'ok    ' if check['passed'] else 'FAILED'} {check['name']}: {check['text']}")
        return all(check["passed"] for check in checks)

    def _add(self, name: str, record: dict) -> None:
        with (self.folder / f"{name}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def _records(self, name: str) -> Iterable[dict]:
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _line(row: Row) -> str:
    speed = "out of memory"
    if row.pairs_per_second:
        speed = f"{row.pairs_per_second:>11,.1f} pairs/s "
    elif row.tokens_per_second:
        speed = f"{row.tokens_per_second:>11,.0f} tokens/s"
    share = f"  {row.communication:5.1%} in communication" if row.communication is not None else ""
    memory = f"  {row.peak_memory_mib / 1024:5.1f} GiB" if row.peak_memory_mib else ""
    cards = f"{row.cards} card{'s' if row.cards > 1 else ' '}"
    return f"{row.benchmark:9} {row.model:13} {row.implementation:20} {cards} {row.batch:14} {speed}{memory}{share}"


def _gains(row: Row, rows: list[Row]) -> str:
    """Speed-up over one GPU: with the same batch per GPU (weak) or the same global batch (strong)."""
    if row.cards == 1 or not row.seconds:
        return ""
    gains = []
    for one in rows:
        if one.cards > 1 or not one.seconds or (one.benchmark, one.model) != (row.benchmark, row.model):
            continue
        if row.benchmark == "reranking" and one.implementation == row.implementation:
            gains.append(f"{one.seconds / row.seconds:.2f}x one card")
        elif row.benchmark == "training" and one.tokens in (row.tokens // row.cards, row.tokens):
            scaling = "weak" if one.tokens < row.tokens else "strong"
            gains.append(f"{row.tokens / row.seconds / (one.tokens / one.seconds):.2f}x one card ({scaling})")
    return "  " + ", ".join(gains) if gains else ""


def _read(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8", newline="") as stream:
        for record in csv.DictReader(stream):
            row = Row(
                *(record[name] for name in ("benchmark", "model", "implementation", "precision", "batch")), 0, 0, ""
            )
            row.tokens, row.cards, row.pairs = int(record["tokens"]), int(record["cards"]), int(record["pairs"])
            for name in ("seconds", "tokens_per_second", "peak_memory_mib", "communication", "pairs_per_second"):
                setattr(row, name, float(record[name]) if record[name] else None)
            rows.append(row)
    return rows
