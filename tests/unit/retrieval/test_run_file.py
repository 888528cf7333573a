"""An imported TREC run as first stage."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from ssmrank.cli import main
from ssmrank.io.texts import StoreWriter
from ssmrank.io.trec import iterate_run, read_run

RUN = "q1 Q0 d2 1 5.0 x\nq1 Q0 q1 2 4.5 x\nq1 Q0 d1 3 4.0 x\nq9 Q0 d1 1 1.0 x\nq2 Q0 d3 1 2.0 x\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny/splits/test").mkdir(parents=True)
    with StoreWriter(tmp_path / "tiny/documents.jsonl") as writer:
        for id in ("d1", "d2", "d3", "q1"):
            writer.add(id, id)
    queries = [{"id": "q1", "text": "a"}, {"id": "q2", "text": "b"}]
    (tmp_path / "tiny/splits/test/queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    return tmp_path


def take(
    folder: Path, text: str, name: str = "run.trec", depth: int = 1000, *more: str, sha256: str = "", **keys: str
) -> int:
    content = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (folder / name).write_bytes(content)
    file = {"path": str(folder / name), "sha256": sha256 or hashlib.sha256(content).hexdigest()}
    settings = {"kind": "run", "runs": {"tiny/test": file}, "depth": depth, "label": "Theirs"} | keys
    words = ["--settings", json.dumps(settings), "--collection", str(folder / "tiny"), "--split", "test"]
    return main(["retrieve", "import", *words, "--output", str(folder / "out.trec"), *more])


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_a_run_of_the_split_s_queries(folder: Path, name: str) -> None:
    assert take(folder, RUN, name, 2) == 0
    assert read_run(folder / "out.trec") == {"q1": [("d2", 5.0), ("q1", 4.5)], "q2": [("d3", 2.0)]}


def test_a_query_does_not_find_itself(folder: Path) -> None:
    assert take(folder, RUN, "run.trec", 2, "--leave-out-own-document") == 0
    assert read_run(folder / "out.trec")["q1"] == [("d2", 5.0), ("d1", 4.0)]


@pytest.mark.parametrize(("ties", "order"), [("trec_eval", ["d3", "d2", "d1"]), ("file", ["d2", "d1", "d3"])])
def test_ties(folder: Path, ties: str, order: list[str]) -> None:
    lines = "q1 Q0 d2 1 2.5 x\nq1 Q0 d1 2 2.5 x\nq1 Q0 d3 3 2.5 x\n"
    assert take(folder, lines, ties=ties) == 0
    assert [document for document, _ in read_run(folder / "out.trec")["q1"]] == order
    assert take(folder, lines, depth=2, ties=ties) == 0
    assert [document for document, _ in read_run(folder / "out.trec")["q1"]] == order[:2]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (RUN, {"sha256": "0" * 64}, "sha256"),
        (RUN.replace("d3", "d4"), {}, "query q2 names document 'd4', which"),
        ("q9 Q0 d1 1 1.0 x\n", {}, "no query has a hit; check that"),
        (
            RUN + "q1 Q0 d3 4 1.0 x\n",
            {},
            "run.trec:6: query q1 already appears in earlier lines; sort the lines by query",
        ),
    ],
)
def test_wrong_runs_are_one_line_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture, text: str, options: dict[str, str], message: str
) -> None:
    assert take(folder, text, **options) == 2  # type: ignore[arg-type]
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (folder / "out.trec").exists()


def test_a_broken_gzip_file_is_named(folder: Path) -> None:
    (folder / "broken.trec.gz").write_bytes(gzip.compress(RUN.encode() * 1000)[:60])
    with pytest.raises(Exception, match=r"broken\.trec\.gz: is not a complete gzip file"):
        list(iterate_run(folder / "broken.trec.gz"))
