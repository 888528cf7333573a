"""Which jobs a change makes Snakemake run again: counts of planned jobs."""

from __future__ import annotations

import os
import time

import pytest

TRAININGS = {"train": 2, "rerank": 2, "evaluate": 2, "table": 1}
RETRIEVAL = {"retrieve": 2, "negatives": 1, "evaluate_first_stage": 1, **TRAININGS}
INDEX = {"index": 1, **RETRIEVAL}

PARAMS = {
    "caption": ("caption: Results", "caption: Numbers", {"table": 1}),
    "label of a model": ("label: Tiny BERT", "label: Small BERT", {"table": 1}),
    "label of a training": ("label: FirstP (32)", "label: short", {"table": 1}),
    "title of a collection": ("title: Tiny", "title: Small", {"table": 1}),
    "learning rate of one model": (
        "    size: 5K\n    source: {kind: folder",
        "    size: 5K\n    training: {learning_rate: 0.002}\n    source: {kind: folder",
        {"train": 1, "rerank": 1, "evaluate": 1, "table": 1},
    ),
    "shape of a random model": (
        "state_size: 8",
        "state_size: 4",
        {"download_model": 1, "train": 1, "rerank": 1, "evaluate": 1, "table": 1},
    ),
    "learning rate of all": ("learning_rate: 1.0e-3", "learning_rate: 2.0e-3", TRAININGS),
    "depth of reranking": ("bm25, depth: 10", "bm25, depth: 5", {"rerank": 2, "evaluate": 2, "table": 1}),
    "count of negatives": ("count: 2}", "count: 1}", {"negatives": 1, **TRAININGS}),
    "k1": ("k1: 0.9", "k1: 1.2", RETRIEVAL),
    "metric": ("[nDCG@10, MRR@10]", "[nDCG@10, MRR@5]", {"evaluate_first_stage": 1, "evaluate": 2, "table": 1}),
}

CODE = {
    "comment in the loss": ("src/ssmrank/training/loss.py", '"""', '# A comment.\n"""', {}),
    "loss": ("src/ssmrank/training/loss.py", None, "\nEXTRA = 1\n", TRAININGS),
    "BM25": ("src/ssmrank/retrieval/retrieve.py", None, "\nEXTRA = 1\n", RETRIEVAL),
    "LaTeX": ("src/ssmrank/reporting/latex.py", None, "\nEXTRA = 1\n", {"table": 1}),
    "kernels": ("src/ssmrank/kernels/ssd/__init__.py", None, "\nEXTRA = 1\n", TRAININGS),
    "command line": ("src/ssmrank/cli.py", None, "\nEXTRA = 1\n", {}),
    "README": ("README.md", None, "\n<!-- A comment. -->\n", {}),
}


def test_nothing_changed_nothing_to_do(finished) -> None:
    assert finished.planned() == {}


@pytest.mark.parametrize("name", PARAMS)
def test_params(finished, name: str) -> None:
    old, new, jobs = PARAMS[name]
    with finished.edited("params.yaml", old, new):
        assert finished.planned() == jobs


@pytest.mark.parametrize("name", CODE)
def test_code(finished, name: str) -> None:
    path, old, new, jobs = CODE[name]
    if old is None:
        old = (finished.folder / path).read_text()
        new = old + new
    elif (text := (finished.folder / path).read_text()).count(old) > 1:
        old, new = text, text.replace(old, new, 1)
    with finished.edited(path, old, new):
        assert finished.planned() == jobs


def test_one_document(finished) -> None:
    with finished.edited("tests/data/workflow/collection/corpus.jsonl", '"_id": "d7"', '"_id": "d7x"'):
        assert finished.planned() == {"download_collection": 1, **INDEX}


def test_times_of_sources_do_not_count(finished) -> None:
    later = time.time() + 3600
    for path in finished.folder.rglob("*"):
        if path.is_file() and path.relative_to(finished.folder).parts[0] not in {"data", "results", ".snakemake"}:
            os.utime(path, (later, later))
    assert finished.planned() == {}


SECOND_ROW = ("          - {model: tiny-mamba2, training: firstp}\n", "")
SEEDS = "trainings: {firstp: {seeds: [43, 42]}}\n"
TESTS = "tables: {table4: {significance: {baseline: {retriever: bm25}}}}\n"


def test_a_further_seed_leaves_the_first_alone(finished) -> None:
    (finished.folder / "seeds.yaml").write_text(SEEDS)
    assert finished.planned("--configfile", "seeds.yaml") == TRAININGS


def test_tests_of_significance_are_made_from_what_is_there(finished) -> None:
    (finished.folder / "tests.yaml").write_text(TESTS)
    assert finished.planned("--configfile", "tests.yaml") == {"significance": 1, "table": 1}


def test_seeds_and_significance_in_a_table(project) -> None:
    (project.folder / "both.yaml").write_text(SEEDS + TESTS)
    project.edit("params.yaml", *SECOND_ROW)
    project.snakemake("--configfile", "both.yaml")
    outcomes = [
        (project.folder / f"results/checkpoints/{training}/tiny-bert/outcome.json").read_text()
        for training in ("firstp", "firstp@seed43")
    ]
    assert outcomes[0] != outcomes[1]
    [header, bm25, bert] = (project.folder / "results/tables/table4.csv").read_text().splitlines()
    assert header.endswith("nDCG@10,nDCG@10 (standard deviation)")
    assert bm25.endswith(",") and not bert.endswith(",")
    compared = (project.folder / "results/tables/significance/table4.csv").read_text().splitlines()
    assert len(compared) == 2 and ",tiny/test,nDCG@10,bm25-top10/firstp/tiny-bert,bm25," in compared[1]
    assert project.planned("--configfile", "both.yaml") == {}
    with project.edited("params.yaml", "label: Tiny BERT", "label: Small BERT"):
        assert project.planned("--configfile", "both.yaml") == {"table": 1}


def test_an_overlay_changes_what_it_names(finished) -> None:
    (finished.folder / "mine.yaml").write_text("rerankings: {bm25-top10: {depth: 5}}\n")
    assert finished.planned("--configfile", "mine.yaml") == {"rerank": 2, "evaluate": 2, "table": 1}
