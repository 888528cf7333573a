from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssmrank import jobs
from ssmrank.cli import main
from ssmrank.config.params import Params
from ssmrank.config.reading import check
from ssmrank.config.table_settings import SignificanceSettings, TableSettings
from ssmrank.errors import UserError

PARAMS = Path(__file__).parents[3] / "params.yaml"


def params() -> dict[str, Any]:
    """A small experiment with the same sections as params.yaml."""
    values = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    random = {
        "label": "Mini",
        "kind": "D",
        "size": "1M",
        "source": {"kind": "random", "config": {"model_type": "mamba2"}, "tokenizer": "pre"},
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
        "fusions": {"with-first": {"retrievers": [retriever]}},
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
    return jobs.table_settings(check(Params, values, "params.yaml"), "t")


def significance_settings(values: dict[str, Any]) -> SignificanceSettings:
    return jobs.significance_settings(check(Params, values, "params.yaml"), "t")


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics"
    for number, key in enumerate(table_settings(params()).metric_keys()):
        path = folder / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        mean = {"nDCG@10": 0.1 * (number + 1)}
        path.write_text(
            json.dumps({"run": key, "status": "ok", "queries": 3, "queries_without_results": 0, "mean": mean})
        )
    return folder


def write(tmp_path: Path, metrics: Path, settings: str | None = None, *more: str) -> int:
    settings = table_settings(params()).model_dump_json() if settings is None else settings
    outputs = [word for kind in ("tex", "csv", "markdown") for word in (f"--{kind}", str(tmp_path / f"t.{kind}"))]
    return main(["table", "results", "--settings", settings, "--metrics", str(metrics), *outputs, *more])


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


def test_writes_three_files_with_the_same_rows(tmp_path: Path, metrics: Path) -> None:
    assert write(tmp_path, metrics) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [(row["model"], row["nDCG@10"]) for row in rows] == [("BM25", "10.0"), ("Pre", "20.0"), ("Mini", "30.0")]
    assert "Cap. Test collection: Bookmarks. Means over 3 queries" in (tmp_path / "t.markdown").read_text()
    assert "\\textbf{30.0}\\rlap{$^{\\dagger\\ddagger}$}" in (tmp_path / "t.tex").read_text()


def test_a_missing_file_is_one_line_and_nothing_is_written(
    tmp_path: Path, metrics: Path, capsys: pytest.CaptureFixture
) -> None:
    (metrics / "semanlink/test/bm25.json").unlink()
    assert write(tmp_path, metrics) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "bm25.json: cannot read: No such file or directory; run `ssmrank evaluate` to make it" in error
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("t.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "bm25.json: malformed JSON"),
        ("[]", "bm25.json: is not a JSON object"),
        ('{"status": "ok", "queries": 3}', "bm25.json: key mean is missing"),
        ('{"status": "ok", "queries": 3, "mean": {"MRR@10": 1}}', "bm25.json: has no nDCG@10 (only MRR@10)"),
    ],
)
def test_broken_metrics_files_are_named(
    tmp_path: Path, metrics: Path, capsys: pytest.CaptureFixture, content: str, message: str
) -> None:
    (metrics / "semanlink/test/bm25.json").write_text(content)
    assert write(tmp_path, metrics) == 2
    assert message in capsys.readouterr().err


def test_nothing_to_write_is_refused(metrics: Path, capsys: pytest.CaptureFixture) -> None:
    settings = table_settings(params()).model_dump_json()
    assert main(["table", "results", "--settings", settings, "--metrics", str(metrics)]) == 2
    assert "nothing to write; give --tex" in capsys.readouterr().err


def test_rows_of_seeds_and_published_rows() -> None:
    values = params()
    values["trainings"]["firstp"] |= {"seed": 3, "seeds": [3, 5]}
    values["tables"]["t"]["sections"][0]["published"] = ["MonoBERT"]
    values["tables"]["t"]["significance"] = {"baseline": {"model": "pre", "training": "firstp"}}
    rows = [row for section in table_settings(values).sections for row in section.rows]
    seeds = [["top30/firstp/pre", "top30/firstp@seed5/pre"], ["top30/firstp/mini", "top30/firstp@seed5/mini"]]
    assert [row.runs for row in rows] == [[], ["bm25"], *seeds]
    assert table_settings(values).baseline == "Pre FirstP (64)"
    settings = significance_settings(values)
    assert [[(pair.row, pair.other) for pair in family] for family in settings.families] == [[(1, 2)], [(3, 2)]]
    values["tables"]["t"]["significance"] = {}
    settings = significance_settings(values)
    assert [[(pair.row, pair.other) for pair in family] for family in settings.families] == [[(3, 2)]]


def test_a_baseline_that_is_no_row_is_refused() -> None:
    values = params()
    for baseline, message in (
        ({"model": "mini", "training": "firstp", "retriever": "bm25"}, "name either a retriever, or a model and a"),
        ({"model": "mini"}, "name either a retriever, or a model and a training"),
        ({"model": "minni", "training": "firstp"}, "'minni' is not defined in section models; did you mean 'mini'"),
    ):
        values["tables"]["t"]["significance"] = {"baseline": baseline}
        with pytest.raises(UserError, match=message):
            table_settings(values)
    values["tables"]["t"]["significance"] = {"baseline": {"retriever": "bm25"}}
    values["tables"]["t"]["sections"][0] = {"title": "First", "published": ["MonoBERT"]}
    with pytest.raises(UserError, match=r"tables\.t\.significance\.baseline: it is not a row of the table"):
        table_settings(values)


def test_tests_need_their_file(tmp_path: Path, metrics: Path, capsys: pytest.CaptureFixture) -> None:
    values = params()
    values["tables"]["t"]["significance"] = {"baseline": {"retriever": "bm25"}}
    settings = table_settings(values).model_dump_json()
    assert write(tmp_path, metrics, settings) == 2
    assert "give --significance" in capsys.readouterr().err
    compared = tmp_path / "compared.csv"
    compared.write_text("column,row,other,difference,holm_randomization\n0,2,0,0.2,0.01\n0,1,0,0.1,0.2\n")
    assert write(tmp_path, metrics, settings, "--significance", str(compared)) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["nDCG@10 (significance)"] for row in rows] == ["", "", "↑"]
    compared.write_text("a,b\n1,2\n")
    assert write(tmp_path, metrics, settings, "--significance", str(compared)) == 2
    assert "compared.csv: was not written by `ssmrank table significance`" in capsys.readouterr().err


def test_section_without_rows_is_refused() -> None:
    values = params()
    values["tables"]["t"]["sections"].append({"title": "Empty"})
    with pytest.raises(Exception, match="section 'Empty' has no rows"):
        table_settings(values)
