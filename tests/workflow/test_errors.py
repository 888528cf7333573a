"""What the user sees when something is wrong: one line with what, where and what to do, and no half results."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest

WRONG = {
    "unknown key": ("k1: 0.9", "kk1: 0.9", "params.yaml: unknown key retrievers.bm25.kk1; did you mean 'k1'?"),
    "wrong type": ("max_length: 32", "max_length: many", "params.yaml: trainings.firstp.max_length: "),
    "undefined model": ("model: tiny-bert,", "model: tiny-bart,", "did you mean 'tiny-bert'?"),
    "undefined collection": ("    collection: tiny\n", "    collection: tinny\n", "did you mean 'tiny'?"),
    "malformed YAML": ("k1: 0.9", "k1: [0.9", "params.yaml:13: malformed YAML: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_params(fresh, name: str) -> None:
    old, new, message = WRONG[name]
    fresh.edit("params.yaml", old, new)
    answer = fresh.snakemake(check=False)
    assert answer.returncode != 0
    said = [line for line in answer.stdout.splitlines() if not line.startswith("Using workflow specific profile")]
    assert len(said) == 1
    assert said[0].startswith("ssmrank: error: ")
    assert message in said[0]
    assert not (fresh.folder / "results").exists()
    assert not (fresh.folder / "data").exists()


def test_an_overlay_is_named(fresh) -> None:
    (fresh.folder / "mine.yaml").write_text("rerankings: {bm25-top10: {deptth: 5}}\n")
    answer = fresh.snakemake("--configfile", "mine.yaml", check=False)
    assert answer.returncode != 0
    assert "ssmrank: error: params.yaml + mine.yaml: unknown key rerankings.bm25-top10.deptth" in answer.stdout


def test_texts_are_no_wildcards_and_no_commands(fresh) -> None:
    """Labels reach a job as they are, whatever Snakemake, its formatting or the shell would do with them."""
    strange = "a=b {table} {{x}} {wildcards.model} {0} $(touch made) `touch made` 'q' \"d\" %s } {"
    values = {
        "collections": {"tiny": {"title": strange}},
        "models": {"tiny-bert": {"label": strange}, "tiny-mamba2": {"label": "-x"}},
        "trainings": {"firstp": {"label": strange}},
        "retrievers": {"bm25": {"label": strange}},
        "tables": {"table4": {"caption": strange}},
    }
    (fresh.folder / "mine.yaml").write_text(json.dumps(values))
    targets = ["all", "all_figures", "results/figures/efficiency.pdf"]
    said = fresh.snakemake("-n", "-p", "--configfile", "mine.yaml", "--", *targets).stdout
    shell = [line for line in said.splitlines() if line.startswith("Shell command: ssmrank figure curves ")]
    (words,) = [shlex.split(line.removeprefix("Shell command: ").partition(" 2>&1")[0]) for line in shell]
    assert f"--checkpoints={strange}=results/checkpoints/firstp/tiny-bert" in words
    assert "--checkpoints=-x=results/checkpoints/firstp/tiny-mamba2" in words


@pytest.mark.slow
def test_a_job_that_fails(fresh) -> None:
    """Its error is repeated at the end; nothing of its output is left."""
    good, bad = '{"_id": "d7", ', '{"_id": "d7" '
    fresh.edit("tests/data/workflow/collection/corpus.jsonl", good, bad)
    answer = fresh.snakemake("data/collections/tiny", check=False)
    assert answer.returncode != 0
    reason = "ssmrank download collection: error: tests/data/workflow/collection/corpus.jsonl:8: "
    end = answer.stdout.partition("Exiting because a job execution failed.")[2]
    assert sum(line.startswith(reason) for line in end.splitlines()) == 1
    assert [path for path in (fresh.folder / "data").rglob("*") if "tiny" in path.name] == []
    assert not list((fresh.folder / "results/tracking").glob("*"))  # a download is not a run of MLflow
    fresh.edit("tests/data/workflow/collection/corpus.jsonl", bad, good)
    fresh.snakemake("data/collections/tiny")
    assert (fresh.folder / "data/collections/tiny/documents.jsonl").exists()


def test_an_output_changed_by_hand_is_made_again(project) -> None:
    path = project.folder / "results/metrics/tiny/test/bm25.json"
    good = path.read_bytes()
    path.write_text(path.read_text().replace("0.", "0.9"))
    assert project.planned() == {"evaluate_first_stage": 1, "table": 1}
    path.write_bytes(good)
    assert project.planned() == {}


def test_touch_accepts_what_is_there(project) -> None:
    project.edit("params.yaml", "learning_rate: 1.0e-3", "learning_rate: 2.0e-3")
    project.snakemake("--touch", "--forceall")
    assert project.planned() == {}


def test_records_lost(project) -> None:
    project.run("rm", "-r", ".snakemake")
    assert project.planned() == {}
    project.edit("params.yaml", "learning_rate: 1.0e-3", "learning_rate: 2.0e-3")
    assert project.planned() == {"train": 2, "rerank": 2, "evaluate": 2, "table": 1}


def test_records_that_this_snakemake_does_not_compare(project) -> None:
    for path in (project.folder / ".snakemake/metadata").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"record_format_version": 5}))
    assert project.planned() == {}
    shutil.rmtree(project.folder / "results/provenance")
    for path in (project.folder / ".snakemake/metadata").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"record_format_version": 5}))
    assert project.planned()["train"] == 2
