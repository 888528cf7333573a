from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssmrank.cli import main
from ssmrank.config import Params, TableSettings, check

PARAMS = Path(__file__).parents[3] / "params.yaml"


def params() -> dict[str, Any]:
    """A small experiment of the same sections as params.yaml."""
    values = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    random = {
        "label": "Mini",
        "kind": "D",
        "size": "1M",
        "source": {"kind": "random", "config": {}, "tokenizer": "pre"},
    }
    folder = {"label": "Pre", "kind": "E", "size": "2M", "pretraining": "1B", "source": {"kind": "folder", "path": "x"}}
    training = next(iter(values["trainings"].values())) | {"label": "FirstP (64)", "max_length": 64}
    retriever = next(iter(values["retrievers"]))
    collection = training["collection"]
    values["collections"][collection]["title"] = "Bookmarks"
    return values | {
        "models": {"pre": folder, "mini": random},
        "trainings": {"firstp": training},
        "rerankings": {"top30": {"retriever": retriever, "depth": 30}},
        "evaluation": {"metrics": ["nDCG@10"]},
        "tables": {
            "t": {
                "caption": "Cap.",
                "reranking": "top30",
                "tests": [{"collection": collection, "split": "test", "metric": "nDCG@10", "label": "nDCG@10"}],
                "sections": [
                    {"title": "First", "retrievers": [retriever]},
                    {"title": "Ours", "rerankers": [{"model": m, "training": "firstp"} for m in ("pre", "mini")]},
                ],
            }
        },
    }


def table_settings(values: dict[str, Any]) -> TableSettings:
    return check(Params, values, "params.yaml").table_settings("t")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    found = []
    for number, key in enumerate(table_settings(params()).metric_keys()):
        path = tmp_path / f"{number}.json"
        mean = {"nDCG@10": 0.1 * (number + 1)}
        path.write_text(
            json.dumps({"run": key, "status": "ok", "queries": 3, "queries_without_results": 0, "mean": mean})
        )
        found.append(f"{key}={path}")
    return found


def write(tmp_path: Path, words: list[str], settings: str | None = None) -> int:
    settings = table_settings(params()).model_dump_json() if settings is None else settings
    outputs = [word for kind in ("tex", "csv", "markdown") for word in (f"--{kind}", str(tmp_path / f"t.{kind}"))]
    return main(["table", "--settings", settings, "--metrics", *words, *outputs])


def test_settings_hold_what_is_printed_and_the_keys_of_the_values() -> None:
    settings = table_settings(params())
    assert settings.collections == ["Bookmarks"]
    assert [key.split("/")[2:] for key in settings.metric_keys()] == [
        ["bm25"],
        ["top30", "firstp", "pre"],
        ["top30", "firstp", "mini"],
    ]
    rows = [row for section in settings.sections for row in section.rows]
    assert [row.pretrained for row in rows] == [None, True, False]
    assert [row.prior for row in rows] == ["", "BM25 top-30", "BM25 top-30"]
    assert [row.kind for row in rows] == ["", "E", "D"]


def test_only_what_is_printed_changes_the_settings() -> None:
    before = table_settings(params())
    values = params()
    values["trainings"]["firstp"] |= {"learning_rate": 1.0, "groups": 7, "seed": 3}
    values["models"]["mini"]["training"] = {"learning_rate": 0.5}
    values["retrievers"]["bm25"] |= {"k1": 1.2}
    assert table_settings(values) == before
    for change in (
        lambda v: v["tables"]["t"].update(caption="Other."),
        lambda v: v["models"]["mini"].update(label="Other"),
        lambda v: v["rerankings"]["top30"].update(depth=31),
        lambda v: v["trainings"]["firstp"].update(label="Other"),
    ):
        values = params()
        change(values)
        assert table_settings(values) != before


def test_writes_three_files_with_the_same_rows(tmp_path: Path, words: list[str]) -> None:
    assert write(tmp_path, words) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [(row["model"], row["nDCG@10"]) for row in rows] == [("BM25", "10.0"), ("Pre", "20.0"), ("Mini", "30.0")]
    assert "Cap. Test collection: Bookmarks. Means over 3 queries" in (tmp_path / "t.markdown").read_text()
    assert "\\textbf{30.0}\\rlap{$^{\\dagger\\ddagger}$}" in (tmp_path / "t.tex").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words: words[:-1], "no file for"),
        (lambda words: [*words, "other=x.json"], "no row of the table asks for 'other'"),
        (lambda words: [words[0].split("=")[0], *words[1:]], "write it as KEY=FILE"),
        (lambda words: [words[0] + ".absent", *words[1:]], "run `ssmrank evaluate` to make it"),
    ],
)
def test_wrong_files_are_one_line_and_nothing_is_written(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture, change: Any, message: str
) -> None:
    assert write(tmp_path, change(words)) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and message in error
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("t.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "0.json: malformed JSON"),
        ("[]", "0.json: holds no JSON object"),
        ('{"status": "ok", "queries": 3}', "0.json: key mean is missing"),
        ('{"status": "ok", "queries": 3, "mean": {"MRR@10": 1}}', "0.json: holds no nDCG@10 (it has MRR@10)"),
    ],
)
def test_broken_metrics_files_are_named(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture, content: str, message: str
) -> None:
    (tmp_path / "0.json").write_text(content)
    assert write(tmp_path, words) == 2
    assert message in capsys.readouterr().err


def test_nothing_to_write_is_refused(words: list[str], capsys: pytest.CaptureFixture) -> None:
    settings = table_settings(params()).model_dump_json()
    assert main(["table", "--settings", settings, "--metrics", *words]) == 2
    assert "nothing to write; give --tex" in capsys.readouterr().err


def test_section_without_rows_is_refused() -> None:
    values = params()
    values["tables"]["t"]["sections"].append({"title": "Empty"})
    with pytest.raises(Exception, match="section 'Empty' has no rows"):
        table_settings(values)
