"""Benchmarks run, at sizes that measure nothing."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssmrank.io.texts import StoreWriter
from ssmrank.io.trec import write_run
from ssmrank.models.reranker import new_reranker


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


def test_another_checkout_finds_the_caller_s_packages(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from versions import environment

    for module in ("before/src/ssmrank", "own/needed"):
        (tmp_path / module).parent.mkdir(parents=True)
        (tmp_path / module).with_suffix(".py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["own", str(root / "src")]))
    command = [sys.executable, "-c", "import needed, ssmrank; print(ssmrank.__file__)"]
    found = subprocess.run(
        command, cwd="before", env=environment(tmp_path / "before"), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(tmp_path / "before/src/ssmrank.py")


def test_seconds_stay_where_packings_are_cut_off(root: Path, tmp_path: Path, tiny_model, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import same_scores

    collection = tmp_path / "collection"
    (collection / "splits/test").mkdir(parents=True)
    with StoreWriter(collection / "documents.jsonl") as writer:
        writer.add("d1", "mamba scan")
        writer.add("d2", "river boat fish")
    (collection / "splits/test/queries.jsonl").write_text(json.dumps({"id": "q", "text": "boat"}) + "\n")
    write_run(tmp_path / "run.trec", {"q": [("d1", 2.0), ("d2", 1.0)]}, "first")
    reranker = new_reranker(tiny_model("mamba2"), "D", 60)
    reranker.save(tmp_path / "model")

    def cut_off(*_: object) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(same_scores, "in_other_packings", cut_off)
    words = ["--collection", collection, "--run", tmp_path / "run.trec", "--models", tmp_path / "model"]
    words += ["--precisions", "fp32", "--repeats", "1", "--packed", "1", "--output", tmp_path / "found.csv"]
    monkeypatch.setattr(sys, "argv", ["same_scores.py", *map(str, words)])
    with pytest.raises(KeyboardInterrupt):
        same_scores.main()
    with (tmp_path / "found.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["deterministic"], row["pairs"], row["packings"]) for row in rows] == [
        ("", "2", ""),
        ("batch", "2", ""),
    ]
    assert all(float(row["seconds"]) >= 0 for row in rows)


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
