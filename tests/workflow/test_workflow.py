"""The workflow as people and tools see it: targets, style, report, tracking."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import pytest


def test_the_user_s_commands(fresh) -> None:
    typed = fresh.planned("--cores", "8", "--resources", "gpu=1", "results/tables/table4.tex")
    assert typed["table"] == 1
    assert fresh.planned("results/tables/table4.tex") == typed


@pytest.mark.parametrize("target", ["results/runs/first-stage/tiny/test/bm25.trec", "data/indexes/tiny/porter"])
def test_any_output_is_a_target(fresh, target: str) -> None:
    assert "train" not in fresh.planned(target)


def test_jobs_on_the_gpu_run_one_after_another(fresh) -> None:
    plan = fresh.snakemake("-n", "--cores", "8", "results/tables/table4.tex").stdout
    assert "resources: tmpdir=" in plan
    assert plan.count("gpu=1") == plan.count("rule train:") + plan.count("rule rerank:") == 4


def test_default_experiment_plans(fresh, root: Path) -> None:
    (fresh.folder / "params.yaml").write_text((root / "params.yaml").read_text())
    for size in ("minis", "small"):
        (fresh.folder / "models" / size).symlink_to(root / "models" / size)
    jobs = fresh.planned()
    assert jobs["download_collection"] == 1
    assert jobs["train"] == 13
    assert jobs["rerank"] == jobs["evaluate"] == 16
    assert jobs["fuse"] == jobs["evaluate_fused"] == 9


def test_measured_tables_and_figures_are_targets_of_their_own(fresh) -> None:
    names = [
        "tables/table5.csv",
        "tables/table6.md",
        "figures/figure1.pdf",
        "figures/efficiency.pdf",
        "tables/tables.pdf",
    ]
    jobs = fresh.planned(*(f"results/{name}" for name in names))
    own = ("inference_speed", "training_throughput", "table5", "table6", "figure1", "efficiency", "tables_pdf")
    assert {rule: jobs[rule] for rule in own} == {rule: 2 if rule == "inference_speed" else 1 for rule in own}
    assert jobs["rerank_speed"] == jobs["train"] == 2
    assert not set(own) & set(fresh.planned())


@pytest.mark.slow  # ranx compiles
@pytest.mark.timeout(900)
def test_ranx_compares_the_rows_of_a_table_by_name(project) -> None:
    assert "comparison" not in project.planned("--forceall", "all")
    project.snakemake("all_comparisons")
    written = project.folder / "results/comparisons/table4/tiny/test"
    report = json.loads(written.with_suffix(".json").read_text())
    with (project.folder / "results/tables/table4.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(report["model_names"]) == len(rows) == 3
    means = [report[name]["scores"]["ndcg@10"] for name in report["model_names"]]
    files = ["bm25", "bm25-top10/firstp/tiny-bert", "bm25-top10/firstp/tiny-mamba2"]
    metrics = [json.loads((project.folder / f"results/metrics/tiny/test/{name}.json").read_text()) for name in files]
    assert means == pytest.approx([one["mean"]["nDCG@10"] for one in metrics], abs=1e-9)
    assert written.with_suffix(".txt").read_text().startswith("#    Model")
    assert project.planned("all_comparisons") == {}


def test_report(finished) -> None:
    report = finished.folder.parent / "report.html"
    finished.snakemake("--report", str(report))
    page = report.read_text()
    assert "table4.csv" in page
    assert "every row is a first-stage retriever" in page


def test_each_job_keeps_its_log_and_its_costs(finished) -> None:
    results = finished.folder / "results"
    logs = {path.relative_to(results / "logs").with_suffix("") for path in results.glob("logs/**/*.log")}
    costs = {path.relative_to(results / "benchmarks").with_suffix("") for path in results.glob("benchmarks/**/*.tsv")}
    assert costs == logs
    for path in results.glob("benchmarks/**/*.tsv"):
        with path.open() as stream:
            assert float(next(csv.DictReader(stream, delimiter="\t"))["s"]) >= 0


def test_mlflow_has_a_run_for_each_training_with_its_evaluation(finished) -> None:
    database = sqlite3.connect(finished.folder / "mlflow.db")
    runs = database.execute("select run_uuid, name, status from runs").fetchall()
    assert {status for _, _, status in runs} == {"FINISHED"}
    names = [name for _, name, _ in runs]
    rules = {rule for (rule,) in database.execute("select value from tags where key = 'rule'")}
    assert rules == {"train", "evaluate"}
    assert sorted(names) == ["bm25", "firstp/tiny-bert", "firstp/tiny-mamba2"]
    for model in ("tiny-bert", "tiny-mamba2"):
        assert names.count(f"firstp/{model}") == 1
        run = next(uuid for uuid, name, _ in runs if name == f"firstp/{model}")
        metrics = {key for (key,) in database.execute("select key from latest_metrics where run_uuid = ?", (run,))}
        assert {"loss", "tokens_per_second"} <= metrics
        assert any("nDCG" in key for key in metrics)
        assert "tiny/test/pairs_per_second" in metrics
        tags = dict(database.execute("select key, value from tags where run_uuid = ?", (run,)))
        assert tags["rule"] == "train"
        assert tags["model"] == model
        assert tags["collection"] == "tiny"
        assert tags["seed"] == "42"
        assert tags["checkpoint"] == f"results/checkpoints/firstp/{model}"
        assert tags["git_revision"]
    assert not list((finished.folder / "results/tracking").glob("*.jsonl"))
