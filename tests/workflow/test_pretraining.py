"""Pretraining, training on titles and publishing, with jobs run on a machine without Snakemake."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

OPTIONS = ["--configfile", "tiny-pretraining.yaml", "--"]
ARGUMENTS = [*OPTIONS, "results/pretraining/tiny/published/hybrid", "results/figures/pretraining-tiny.pdf"]
"""Two models are pretrained, for the figure; one of them is trained and published as well."""


@pytest.fixture
def pretraining(fresh, root: Path):
    """The fresh project with the corpus and the overlay."""
    generator = random.Random(0)
    words = "state space model rank text query river boat fish mountain snow index search".split()
    folder = fresh.folder / "data/corpora/tiny"
    folder.mkdir(parents=True)
    for part in range(2):
        texts = (
            {
                "_id": f"{part}-{n}",
                "title": " ".join(generator.choices(words, k=3)),
                "text": " ".join(generator.choices(words, k=20)),
            }
            for n in range(40)
        )
        (folder / f"part-{part}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    overlay = (root / "tests/data/params/tiny-pretraining.yaml").read_text()
    (fresh.folder / "tiny-pretraining.yaml").write_text(overlay)
    return fresh


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_jobs_that_are_carried_elsewhere_make_what_the_workflow_accepts(pretraining) -> None:
    script = "workflow/scripts/carry_jobs.py"
    pretraining.run("python", script, "list", "jobs.json", "--", *ARGUMENTS)
    jobs = json.loads((pretraining.folder / "jobs.json").read_text())
    rules = sorted(job["rule"] for job in jobs)
    twice = ["pretrain", "pretrain_sweep"]
    once = ["corpus_tokenizer", "corpus_tokens", "download_collection", "index", "retrieve", "negatives"]
    once += ["download_model", "train", "publish_model", "pretraining_figure"]
    assert rules == sorted([*twice, *twice, *once])
    # The first run has no time for any job; a later one is limited to some rules and reports what is missing.
    stopped = pretraining.run("python", script, "run", "jobs.json", "--seconds", "1", check=False)
    assert stopped.returncode == 75
    some = pretraining.run("python", script, "run", "jobs.json", "--rules", "publish_model", check=False)
    assert "needs results/pretraining/tiny/models/hybrid" in some.stdout
    finished = pretraining.run("python", script, "run", "jobs.json", "--gpu-jobs", "2", check=False)
    assert finished.returncode == 0, finished.stdout
    assert pretraining.planned(*ARGUMENTS) != {}
    pretraining.snakemake("--touch", *ARGUMENTS)
    assert pretraining.planned(*ARGUMENTS) == {}
    card = (pretraining.folder / "results/pretraining/tiny/published/hybrid/README.md").read_text()
    assert "Made up" in card
    assert (pretraining.folder / "results/pretraining/tiny/published/hybrid/sweep.json").exists()
    assert "`snakemake --configfile tiny-pretraining.yaml -- results/pretraining/tiny/published/hybrid`" in card
    assert "made-up titles and their documents, negatives of each: 2 from the first 20 of BM25" in card
    # A changed licence rewrites only the card; a changed learning rate runs its model's whole chain again.
    pretraining.edit("tiny-pretraining.yaml", "    license: CC0", "    license: CC BY")
    assert pretraining.planned(*ARGUMENTS) == {"publish_model": 1}
    pretraining.edit("tiny-pretraining.yaml", "learning_rates: [1.0e-3, 1.0e-2]", "learning_rates: [1.0e-3, 2.0e-2]")
    plan = pretraining.planned(*ARGUMENTS)
    assert (plan["pretrain_sweep"], plan["pretrain"], plan["train"]) == (2, 2, 1)
    assert not {"corpus_tokens", "download_collection"} & plan.keys()
    everything = pretraining.planned(*OPTIONS, "all_publish")
    assert (everything["publish_model"], everything["train"], everything["download_model"]) == (2, 2, 2)
