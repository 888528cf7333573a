"""The workflow runs in the environment that the steps of Containerfile.pipeline make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from containerfiles import pipeline


@pytest.mark.timeout(600)
def test_a_reranking_is_made_and_evaluated(root: Path, tmp_path: Path) -> None:
    """A first stage needs Java, a reranker needs torch, and measures need what is compiled."""
    container = pipeline(root, tmp_path / "container")
    metrics = "results/metrics/tiny/test/bm25-top10/firstp/tiny-bert.json"
    finished = container.run(f"snakemake --cores 2 {metrics}")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert 0 < json.loads((container.folder / metrics).read_text())["mean"]["nDCG@10"] <= 1
