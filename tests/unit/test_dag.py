"""The picture of the workflow, made from Snakemake's graph of rules."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

GRAPH = """digraph snakemake_dag {
	0[label = "all", color = "0.00 0.6 0.85", style="rounded"];
	1[label = "train", color = "0.54 0.6 0.85", style="rounded"];
	2[label = "rerank\\ngpu: 1", color = "0.28 0.6 0.85", style="rounded"];
	3[label = "download_model", color = "0.28 0.6 0.85", style="rounded"];
	1 -> 1
	3 -> 1
	3 -> 2
	1 -> 2
	2 -> 0
}
"""


@pytest.fixture(scope="module")
def script(root: Path) -> dict:
    return runpy.run_path(str(root / "workflow/scripts/draw_dag.py"))


def test_edges_that_follow_from_others_and_self_loops_are_left_out(script: dict) -> None:
    edges = script["read_rulegraph"](GRAPH)
    assert ("train", "train") not in edges and ("download_model", "rerank") in edges
    drawn = script["reduced"](edges)
    assert drawn == {("download_model", "train"), ("train", "rerank"), ("rerank", "all")}


def test_the_picture_has_inputs_and_phases_and_no_targets(script: dict) -> None:
    text = script["picture"](script["read_rulegraph"](GRAPH))
    assert '"input models" -> download_model;' in text and "collections" not in text
    for phase in ("download", "train", "rerank"):
        assert f'subgraph "cluster_{phase}"' in text
    assert "rankdir=LR" in text and "-> all" not in text


def test_every_rule_has_a_phase(script: dict, root: Path) -> None:
    phases = script["phases"]()
    assert phases["retrieve"] == "retrieve" and phases["evaluate_fused"] == "evaluate"
    assert set(phases.values()) <= {path.stem for path in (root / "workflow/rules").glob("*.smk")}
