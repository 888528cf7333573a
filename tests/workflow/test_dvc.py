"""Outputs that travel with DVC: nothing is made again without a reason, and nothing old passes as new."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from ssmrank.io.checksum import sha256
from ssmrank.tracking.run_metadata import metadata_file

PHASES = ["download", "index", "retrieve", "negatives", "train", "rerank", "evaluate", "throughput", "tables"]
LEARNING_RATE = ("learning_rate: 1.0e-3", "learning_rate: 2.0e-3")
ONE_LEARNING_RATE = (
    "    size: 5K\n    source: {kind: folder",
    "    size: 5K\n    training: {learning_rate: 0.002}\n    source: {kind: folder",
)
FILES = ["corpus.jsonl", "queries.jsonl"]
SECOND_ROW = ("          - {model: tiny-mamba2, training: firstp}\n", "")
TRAININGS = {"train": 2, "rerank": 2, "evaluate": 2, "table": 1}
FROM_COLLECTION = {"download_collection": 1, "index": 1, "retrieve": 2, "negatives": 1, "evaluate_first_stage": 1}
FIGURES = {"differences": 1, "training_curves": 1}
EVERYTHING = {"download_model": 2, **FROM_COLLECTION, **TRAININGS}


@pytest.fixture(scope="module")
def pushed(finished, tmp_path_factory: pytest.TempPathFactory):
    """A finished project that DVC did not know, after `dvc repro` and `dvc push`, and what `dvc repro` printed."""
    folder = tmp_path_factory.mktemp("pushed")
    project = finished.copy(folder / "project", without=["cache", "tmp", "dvc.lock"])
    printed = project.run("dvc", "repro").stdout
    project.run("dvc", "remote", "add", "--quiet", "--default", "storage", str(folder / "remote"))
    commit(project)
    project.run("dvc", "push")
    return project, printed


@pytest.fixture
def clone(pushed, tmp_path: Path):
    """A fresh clone, nothing pulled."""
    return pushed[0].clone(tmp_path / "project")


@pytest.fixture(scope="module")
def pulled_once(pushed, tmp_path_factory: pytest.TempPathFactory):
    clone = pushed[0].clone(tmp_path_factory.mktemp("pulled") / "project")
    clone.run("dvc", "pull")
    return clone


@pytest.fixture
def pulled(pulled_once, tmp_path: Path):
    """A fresh clone after `dvc pull`."""
    return pulled_once.copy(tmp_path / "project")


def commit(project) -> None:
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "A version")


def test_each_output_of_a_rule_belongs_to_one_stage(fresh) -> None:
    (fresh.folder / "rules.smk").write_text(
        'import json\n\ninclude: "Snakefile"\n\n'
        "print('rules ' + json.dumps({rule.name: [str(path) for path in rule.output] for rule in workflow.rules}))\n"
    )
    printed = fresh.run("snakemake", "--snakefile", "rules.smk", "--list-rules").stdout
    rules = json.loads(next(line for line in printed.splitlines() if line.startswith("rules ")).removeprefix("rules "))
    stages = yaml.safe_load((fresh.folder / "dvc.yaml").read_text())["stages"]
    owned = [(stage, path) for stage, facts in stages.items() for entry in _outputs(facts) for path in entry]
    outputs = {output for made in rules.values() for output in made}
    assert len(outputs) > 40
    owners = {output: [stage for stage, path in owned if f"{output}/".startswith(f"{path}/")] for output in outputs}
    assert {output: found for output, found in owners.items() if len(found) != 1} == {}


def _outputs(stage: dict) -> list[dict]:
    """Each is a mapping of one path to what DVC does with it."""
    return [*stage.get("outs", []), *stage.get("metrics", [])]


def test_each_run_comes_with_its_description(pulled) -> None:
    folder, steps = pulled.folder / "results/runs", {}
    for run in folder.rglob("*.trec"):
        found = yaml.safe_load(metadata_file(run).read_text())
        assert found["run"]["sha256"] == sha256(run)
        steps[run.relative_to(folder).as_posix()] = [step["name"] for step in found["method"]["retrieval"]]
    reranked = "reranked/tiny/test/bm25-top10/firstp"
    assert steps == {
        "first-stage/tiny/train/bm25.trec": ["bm25"],
        "first-stage/tiny/test/bm25.trec": ["bm25"],
        f"{reranked}/tiny-bert.trec": ["bm25", "tiny-bert-firstp"],
        f"{reranked}/tiny-mamba2.trec": ["bm25", "tiny-mamba2-firstp"],
    }


def test_repro_on_sources_alone_builds_everything_once(first_run) -> None:
    project, printed = first_run
    assert project.jobs(printed) == EVERYTHING | FIGURES
    assert project.planned() == {}
    assert "Tiny BERT" in (project.folder / "results/tables/table4.md").read_text()


def test_repro_after_snakemake_runs_no_job_and_then_no_stage(pushed) -> None:
    project, printed = pushed
    assert project.jobs(printed) == {}
    assert printed.count("Running stage") == len(PHASES) + 1  # and the list of sources
    again = project.run("dvc", "repro").stdout
    assert again.count("didn't change, skipping") == len(PHASES)
    assert project.planned() == {}


def test_pull_after_deletion(pushed, finished) -> None:
    project, _ = pushed
    for name in ("data", "results"):
        shutil.rmtree(project.folder / name)
    project.run("dvc", "pull")
    assert project.files() == finished.files()
    assert project.planned() == {}


def test_a_pull_names_what_is_damaged_and_brings_the_rest(pushed, clone) -> None:
    pull = ("python", "workflow/scripts/remote.py", "pull", "evaluate", "tables")
    table = "results/tables/table4.md"
    digest = hashlib.md5((pushed[0].folder / table).read_bytes()).hexdigest()
    stored = pushed[0].folder.parent / "remote/files/md5" / digest[:2] / digest[2:]
    good = stored.read_bytes()
    stored.chmod(0o644)
    stored.write_bytes(b"damaged")
    try:
        finished = clone.run(*pull, check=False)
    finally:
        stored.write_bytes(good)
    assert finished.returncode == 2
    assert finished.stdout.startswith(f"ssmrank: error: {table}: its object {stored} is not what was pushed; ")
    assert finished.stdout.count("\n") == 1
    assert clone.planned() == {"table": 1}
    clone.run(*pull)
    assert clone.planned() == {}


def test_pull_into_a_clone_then_change(pulled_once) -> None:
    assert pulled_once.planned() == {}
    assert pulled_once.planned("--rerun-triggers", "mtime") == {}
    with pulled_once.edited("params.yaml", *LEARNING_RATE):
        assert pulled_once.planned() == TRAININGS


def test_change_then_pull(clone) -> None:
    clone.edit("params.yaml", *LEARNING_RATE)
    clone.run("dvc", "pull")
    assert clone.planned() == TRAININGS


def test_change_of_code_then_pull(clone) -> None:
    with (clone.folder / "src/ssmrank/training/loss.py").open("a") as stream:
        stream.write("\nEXTRA = 1\n")
    clone.run("dvc", "pull")
    assert clone.planned() == TRAININGS


def test_change_of_a_document_then_pull(clone) -> None:
    clone.edit("tests/data/workflow/collection/corpus.jsonl", '"_id": "d7"', '"_id": "d7x"')
    clone.run("dvc", "pull")
    assert clone.planned() == FROM_COLLECTION | TRAININGS


def test_pull_of_a_part(clone) -> None:
    clone.run("dvc", "pull", "evaluate", "tables")
    assert clone.planned() == {}
    clone.edit("params.yaml", "caption: Results", "caption: Numbers")
    assert clone.planned() == {"table": 1}


def test_outputs_whose_origin_is_unknown_are_made_again(pulled) -> None:
    shutil.rmtree(pulled.folder / "results/provenance")
    assert pulled.planned() == EVERYTHING
    pulled.run("dvc", "checkout", "--force")
    assert pulled.planned() == {}


def test_inputs_of_another_version_do_not_count(pulled) -> None:
    # As if the negatives, with their record, had been pulled from another version than the checkpoints.
    path = pulled.folder / "results/negatives/tiny/train/bm25-top20.jsonl"
    path.write_text(path.read_text() + "\n")
    ledger = pulled.folder / "results/provenance/negatives.json"
    entries = json.loads(ledger.read_text())
    for entry in entries.values():
        entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    ledger.write_text(json.dumps(entries))
    assert pulled.planned() == TRAININGS


def test_a_file_that_only_params_name_changes(pulled) -> None:
    path = pulled.folder / "tests/data/workflow/collection/corpus.jsonl"
    path.write_text(path.read_text() + '{"_id": "more", "title": "", "text": "One more."}\n')
    assert pulled.built("dvc", "repro", "download") == {"download_collection": 1}


def test_an_overlay_is_versioned(pulled) -> None:
    files = pulled.folder / "tests/data/workflow/collection"
    digests = {name: hashlib.sha256((files / name).read_bytes()).hexdigest() for name in FILES}
    overlay = pulled.folder / "mine.yaml"
    overlay.write_text(json.dumps({"collections": {"tiny": {"source": {"sha256": {FILES[0]: digests[FILES[0]]}}}}}))
    pulled.edit("overlays.yaml", 'overlays: ""', "overlays: mine.yaml")
    assert pulled.built("dvc", "repro", "download") == {"download_collection": 1}
    overlay.write_text(json.dumps({"collections": {"tiny": {"source": {"sha256": digests}}}}))
    assert pulled.built("dvc", "repro", "download") == {"download_collection": 1}


def test_versions_that_alternate(pulled) -> None:
    """One with two rerankers; another with another learning rate of the first, and without the second."""
    before = pulled.files()
    pulled.edit("params.yaml", *ONE_LEARNING_RATE)
    pulled.edit("params.yaml", *SECOND_ROW)
    assert pulled.built("dvc", "repro", "--pull") == {"train": 1, "rerank": 1, "evaluate": 1, "table": 1} | FIGURES
    after = pulled.files()
    changed = {name for name, content in after.items() if before.get(name) != content}
    assert "results/checkpoints/firstp/tiny-bert/model.safetensors" in changed
    assert not any("tiny-mamba2" in name for name in changed)
    assert "learning_rate" in pulled.run("dvc", "params", "diff").stdout
    # Metrics of a row that is gone are not shown; its checkpoint stays.
    shown = pulled.run("dvc", "metrics", "show").stdout
    assert shown.count("results/metrics/tiny/test/") == 2 and "tiny-mamba2" not in shown
    assert (pulled.folder / "results/checkpoints/firstp/tiny-mamba2").exists()
    pulled.run("dvc", "metrics", "diff")
    commit(pulled)

    # Snakemake's own records in this clone now describe the second version; DVC brings back the first.
    pulled.run("git", "checkout", "--quiet", "HEAD~1")
    pulled.run("dvc", "checkout")
    assert pulled.files() == before
    assert pulled.planned() == {}
    # The second version's parameters with the first version's outputs: here old outputs could pass as new.
    pulled.edit("params.yaml", *ONE_LEARNING_RATE)
    pulled.edit("params.yaml", *SECOND_ROW)
    assert pulled.planned() == {"train": 1, "rerank": 1, "evaluate": 1, "table": 1}
    pulled.run("dvc", "checkout", "--relink")
    assert pulled.planned() == {"train": 1, "rerank": 1, "evaluate": 1, "table": 1}
    pulled.run("git", "checkout", "--quiet", "--force", "-")
    pulled.run("dvc", "checkout")
    assert pulled.files() == after
    assert pulled.planned() == {}
