"""Benchmarks run, at sizes that measure nothing."""

from __future__ import annotations

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
