"""The ir_metadata file beside each run."""

from __future__ import annotations

import getpass
import hashlib
import json
import platform
from pathlib import Path

import pytest
import torch
import yaml

from ssmrank.cli import main
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.trec import write_run
from ssmrank.models.reranker import new_reranker
from ssmrank.tracking.run_metadata import metadata_file

QUERIES = {"q1": "river boat", "q2": "snow"}
DOCUMENTS = {"d1": "fish swim in the river", "d2": "snow on the mountain", "d3": "a boat"}


@pytest.fixture
def folder(tmp_path: Path, tiny_model, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A collection, a run from elsewhere and a checkpoint, in the working folder."""
    torch.manual_seed(0)
    checkpoint = tmp_path / "checkpoints/firstp/tiny"
    new_reranker(tiny_model("mamba2"), "D", 48).save(checkpoint)
    training = {"model": "tiny", "settings": {"collection": "other", "split": "train"}}
    (checkpoint / "training.json").write_text(json.dumps(training))
    split = tmp_path / "collections/tiny/splits/test"
    split.mkdir(parents=True)
    for path, texts in ((split / "queries.jsonl", QUERIES), (split.parents[1] / "documents.jsonl", DOCUMENTS)):
        write_jsonl(path, ({"id": id, "text": text} for id, text in texts.items()))
    write_run(tmp_path / "given.trec", {query: [("d1", 2.0), ("d2", 1.0)] for query in QUERIES}, "given")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_run_is_described_with_the_steps_before_it(folder: Path) -> None:
    runs = make_runs(folder)
    found = {name: yaml.safe_load(metadata_file(run).read_text()) for name, run in runs.items()}
    for name, record in found.items():
        assert record["schema version"] == 0.2 and record["actor"] == {"role": "experimenter"}
        assert record["run"] == {"file": runs[name].name, "sha256": hashlib.sha256(runs[name].read_bytes()).hexdigest()}
        assert record["platform"]["hardware"]["cpu"]["architecture"] == platform.machine()
        assert any(line.startswith("ssmrank==") for line in record["platform"]["software"]["libraries"]["python"])
        assert record["resources"]["runtime"]["wallclock"].endswith(" ms")
        assert record["research goal"]["description"].endswith("of tiny/test")
        data = record["data"]["test collection"]
        assert data["name"] == "tiny/test" and data["topics"] == "collections/tiny/splits/test/queries.jsonl"
    ours = found["reranked"]
    assert f"torch=={torch.__version__}" in ours["platform"]["software"]["libraries"]["python"]
    assert ours["data"]["training data"] == [{"name": "other/train"}]
    assert ours["implementation"]["executable"]["cmd"].startswith("ssmrank rerank --settings '{")
    first, second = ours["method"]["retrieval"]
    assert (first["name"], second["name"], second["reranks"]) == ("elsewhere", "tiny-firstp", "elsewhere")
    assert second["depth"] == 2
    fused = found["fused"]["method"]["retrieval"]
    assert [step["name"] for step in fused] == ["elsewhere", "tiny-firstp", "sum"]
    assert fused[-1]["interpolates"] == ["elsewhere", "tiny-firstp"] and fused[-1]["weight"] == [1.0, 2.0]


def test_no_person_and_no_folder_of_this_machine_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    for run in make_runs(folder, absolute=True).values():
        text = metadata_file(run).read_text()
        assert str(folder) not in text and platform.node() not in text
        assert getpass.getuser() == "root" or getpass.getuser() not in text


def test_a_failed_run_keeps_no_description_without_a_run(folder: Path) -> None:
    fused = make_runs(folder)["fused"]
    old = metadata_file(fused).read_text()
    (folder / "given.trec").write_text("broken\n")
    command = ["fuse", "run", "--settings", FUSE, "--run", "given.trec", "given.trec", "--output", str(fused)]
    assert main(command) == 2
    assert metadata_file(fused).read_text() == old
    fused.unlink()  # as Snakemake does before it starts a job
    assert main(command) == 2
    assert not metadata_file(fused).exists()


def test_a_run_that_did_not_fit_into_memory_has_no_description(folder: Path) -> None:
    run = make_runs(folder)["reranked"]
    (folder / "checkpoints/firstp/tiny/outcome.json").write_text('{"status": "oom"}')
    assert main(rerank(folder)) == 0
    assert run.read_text() == "# OOM\n" and not metadata_file(run).exists()


def test_a_damaged_description_of_another_run_does_not_stop_a_run(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = make_runs(folder)
    metadata_file(runs["first"]).write_text("method: 3\n")
    assert main(rerank(folder)) == 0
    assert "elsewhere.ir-metadata.yaml: is no description that ssmrank wrote" in caplog.text
    steps = yaml.safe_load(metadata_file(runs["reranked"]).read_text())["method"]["retrieval"]
    assert [step["name"] for step in steps] == ["elsewhere", "tiny-firstp"]


def test_an_error_in_the_description_does_not_fail_the_run(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = make_runs(folder)
    file = metadata_file(runs["first"])
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"data": 3}))
    runs["fused"].unlink()
    assert (
        main(["fuse", "run", "--settings", FUSE, *("--run", *map(str, list(runs.values())[:2])), "--output", "x.trec"])
        == 0
    )
    assert "x.ir-metadata.yaml: not written (AttributeError" in caplog.text
    assert (folder / "x.trec").is_file() and not (folder / "x.ir-metadata.yaml").exists()


FUSE = '{"method": "z-score", "depth": 2, "weights": [1, 2]}'


def rerank(folder: Path, absolute: bool = False) -> list[str]:
    base = folder if absolute else Path()
    settings = {"retriever": "elsewhere", "depth": 2, "token_budget": 150, "precision": "fp32"}
    words = ["rerank", "--settings", json.dumps(settings), "--checkpoint", str(base / "checkpoints/firstp/tiny")]
    words += ["--collection", str(base / "collections/tiny"), "--split", "test"]
    return [*words, "--run", str(base / "runs/elsewhere.trec"), "--output", str(base / "runs/tiny/tiny.trec")]


def make_runs(folder: Path, absolute: bool = False) -> dict[str, Path]:
    """Runs from elsewhere, reranked and fused."""
    base = folder if absolute else Path()
    first, second, fused = (base / f"runs/{name}.trec" for name in ("elsewhere", "tiny/tiny", "fused/sum"))
    digest = hashlib.sha256((folder / "given.trec").read_bytes()).hexdigest()
    file = {"tiny/test": {"path": str(base / "given.trec"), "sha256": digest}}
    settings = json.dumps({"kind": "run", "label": "Elsewhere", "runs": file})
    collection = ["--collection", str(base / "collections/tiny"), "--split", "test"]
    assert main(["retrieve", "import", "--settings", settings, *collection, "--output", str(first)]) == 0
    assert main(rerank(folder, absolute=absolute)) == 0
    fuse = ["fuse", "run", "--settings", FUSE, "--run", str(first), str(second), "--output", str(fused)]
    assert main(fuse) == 0
    return {"first": first, "reranked": second, "fused": fused}
