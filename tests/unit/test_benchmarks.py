"""Benchmarks run, at sizes that measure nothing."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_each_loop_is_compared_in_each_pass(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import cpu_loops
    import docs_tables

    cpu_loops.main(tmp_path / "kernels-cpu.csv", cpu_loops.TINY)
    monkeypatch.setattr(docs_tables, "RESULTS", tmp_path)
    head, _, *rows = [line.strip("| ").split(" | ") for line in docs_tables.kernels_cpu().splitlines()]
    assert head == ["model, operation", "reranking", "document reuse", "training"]
    assert [row[0] for row in rows] == [
        *("Mamba-1, selective_scan", "Mamba-1, causal_conv"),
        *("Mamba-2, ssd", "Mamba-2, causal_conv"),
    ]
    assert all(cell.endswith(" x") for row in rows for cell in row[1:])


@pytest.mark.slow
def test_ways_of_sharing_a_training_out_are_compared(root: Path, tmp_path: Path) -> None:
    output, ways = tmp_path / "several.csv", ["one card", "fsdp2, before", "fsdp2, layer", "step, bf16 sums"]
    command = [sys.executable, root / "benchmarks" / "several_gpus.py", "--device", "cpu", "--quick", "--cards", "4"]
    command += ["--models", "OPT", "--ways", *ways, "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    with output.open() as stream:
        rows = list(csv.DictReader(stream))
    trained = ["fsdp2, step, 24 GiB", "fsdp2, layer, 24 GiB", *ways]
    assert [(row["implementation"], row["cards"]) for row in rows] == [
        (way, "1" if way == "one card" else "4") for way in trained
    ]
    assert all(float(row["tokens_per_second"]) > 0 for row in rows)
    assert done.stdout.count("x one card (weak)") == 5
    assert "ok     OPT, 2 x 32, within 24 GiB, fsdp2, layer: trains" in done.stdout
