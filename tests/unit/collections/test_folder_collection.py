"""Folders in BEIR's layout: the canonical form, and one line for each possible error."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from ssmrank.cli import main
from ssmrank.collections.canonical import write_collection
from ssmrank.collections.folder import FolderSource
from ssmrank.config.collections import Expected, FolderCollection
from ssmrank.errors import UserError
from ssmrank.evaluation.metrics import evaluate
from ssmrank.io import texts as texts_module
from ssmrank.io.checksum import sha256
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import read_qrels


def write(folder: Path, output: Path, splits: list[str] | None = None, fields: list[str] | None = None, **digests: str):
    settings = FolderCollection(kind="folder", path=str(folder), sha256=digests)
    return write_collection(FolderSource(settings, fields or ["title", "text"]), splits or ["test"], output)


def fails(beir, **options: Any) -> str:
    """The error's message; asserts that it is one line and that nothing was written."""
    output = beir.path.parent / "out" / "collection"
    with pytest.raises(UserError) as caught:
        write(beir.path, output, **options)
    assert "\n" not in str(caught.value)
    assert not output.parent.exists() or not list(output.parent.iterdir())
    return str(caught.value).replace(f"{beir.path}/", "").replace(str(beir.path), "beir")


def test_canonical_form(beir, whole, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    beir.qrels("q3\td1\t1\n", "train")  # without a header
    output = tmp_path / "out"
    statistics = write(beir.path, output, ["train", "test"])
    lines = (output / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "d1", "text": "Hubble a space telescope"},
        {"id": "d2", "text": "l'été à Niamey"},
        {"id": "d3", "text": "Mamba state space model"},
    ]
    assert "été" in lines[1]
    assert read_queries(output / "splits/test/queries.jsonl") == {"q1": "space", "q2": "summer"}
    assert (output / "splits/test/qrels.txt").read_text() == "q1 0 d3 1\nq1 0 d1 1\nq1 0 d2 0\nq2 0 d2 2\n"
    assert read_queries(output / "splits/train/queries.jsonl") == {"q3": "nothing"}
    assert json.loads((output / "statistics.json").read_text()) == statistics
    assert statistics == {
        "documents": 3,
        "documents_empty": 0,
        "documents_repeated": 0,
        "documents_left_out": {},
        "splits": {
            "train": whole | {"queries": 1, "judgments": 1, "relevant": 1},
            "test": whole | {"queries": 2, "judgments": 4, "relevant": 3},
        },
    }
    assert "split test: 2 queries, 4 judgments, 3 of them relevant" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beir", "out"]


def test_writing_twice_gives_the_same_bytes(beir, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        write(beir.path, tmp_path / "out")
        files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


def test_command(beir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"title": "T", "source": {"kind": "folder", "path": str(beir.path)}, "splits": ["test"]}
    options = ["--settings", json.dumps(settings), "--archives", str(tmp_path / "a"), "--output", str(tmp_path / "out")]
    assert main(["download", "collection", *options]) == 0
    assert len(TextStore(tmp_path / "out/documents.jsonl")) == 3
    beir.corpus(b"{")
    assert main(["download", "collection", *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"ssmrank download collection: error: {beir.path}/corpus.jsonl:1: malformed JSON")
    assert len(TextStore(tmp_path / "out/documents.jsonl")) == 3  # what was there stays


def test_text_fields(beir, tmp_path: Path) -> None:
    beir.corpus([{"_id": 7, "title": None, "text": " a ", "keywords": ["b", "c"], "year": 1999}, {"_id": "d2"}][:1])
    beir.qrels("q1\t7\t1\n")
    write(beir.path, tmp_path / "out", fields=["title", "text", "keywords", "year"])
    assert TextStore(tmp_path / "out/documents.jsonl")["7"] == "a b c 1999"


def test_unknown_text_field(beir) -> None:
    assert fails(beir, fields=["body"]) == (
        "corpus.jsonl:1: no field 'body', only '_id', 'title', 'text', 'metadata'; correct text_fields in params.yaml"
    )
    assert fails(beir, fields=["metadata"]).startswith("corpus.jsonl:1: field 'metadata' is an object where text")


def test_malformed_line(beir) -> None:
    beir.corpus(b'{"_id": "d1", "text": "a"}\n\n{"_id": "d2", "text": \n')
    assert fails(beir).startswith("corpus.jsonl:3: malformed JSON (Expecting value, column")
    beir.corpus(b'{"_id": "d1", "text": "a"}\n["d2"]\n')
    assert fails(beir) == "corpus.jsonl:2: is a list, but must be a JSON object"


def test_missing_id(beir) -> None:
    beir.corpus([{"title": "a", "text": "b"}])
    assert fails(beir) == 'corpus.jsonl:1: key "_id" is missing or not a string; each line needs one'


def test_bytes_that_are_not_utf8(beir) -> None:
    beir.corpus('{"_id": "d1", "text": "café"}\n'.encode("latin-1"))
    assert fails(beir) == "corpus.jsonl:1: byte 27 is not UTF-8; convert the file to UTF-8"


def test_queries_that_are_not_utf8(beir) -> None:
    beir.queries(b'{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": "\xff"}\n')
    assert fails(beir) == "queries.jsonl:2: byte 24 is not UTF-8; convert the file to UTF-8"


def test_qrels_that_are_not_utf8(beir) -> None:
    beir.qrels(b"q1\td1\t1\nq1\t\xff\t1\n")
    assert fails(beir) == "qrels/test.tsv:2: byte 4 is not UTF-8; convert the file to UTF-8"


def test_duplicate_document(beir) -> None:
    beir.corpus(b'{"_id": "d1", "text": "a"}\n\n{"_id": "d2", "text": "b"}\n{"_id": "d1", "text": "c"}\n')
    assert fails(beir) == "corpus.jsonl:4: document id 'd1' is already used at corpus.jsonl:1; keep one of them"


def test_duplicate_query(beir) -> None:
    beir.queries([{"_id": "q1", "text": "a"}, {"_id": "q1", "text": "a"}])
    assert fails(beir) == "queries.jsonl:2: query id 'q1' is already used at queries.jsonl:1; keep one of them"


@pytest.mark.parametrize("id", ["d 1", " d1", "d\t1", "d\u00a01", "d1\n"])
def test_document_id_with_white_space(beir, id: str) -> None:
    beir.corpus([{"_id": "d0", "text": "a"}, {"_id": id, "text": "a"}])
    assert fails(beir) == (
        f"corpus.jsonl:2: document id {id!r} contains white space, which TREC files cannot hold; "
        "give it another id here and in the qrels"
    )


def test_query_id_with_white_space_or_empty(beir) -> None:
    beir.queries([{"_id": "q 1", "text": "a"}])
    assert fails(beir).startswith("queries.jsonl:1: query id 'q 1' contains white space")
    beir.queries([{"_id": "", "text": "a"}])
    assert fails(beir).startswith("queries.jsonl:1: query id '' is empty")


def test_empty_text_is_kept_and_counted(beir, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    beir.corpus([{"_id": "d1", "title": "", "text": ""}, {"_id": "d2", "text": "\n"}, {"_id": "d3", "text": "c"}])
    assert write(beir.path, tmp_path / "out")["documents_empty"] == 2
    assert TextStore(tmp_path / "out/documents.jsonl")["d1"] == ""
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "2 documents have no text; they are kept"
    ]


def test_queries_without_text_or_relevant_documents_are_not_asked_and_stay_in_the_qrels(
    beir, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    beir.queries([{"_id": "q1", "text": "a\tb\n c"}, {"_id": "q2", "text": " "}, {"_id": "q3", "text": "c"}])
    beir.qrels("q1\td1\t1\nq2\td1\t1\nq3\td1\t0\nq3\td2\t-1\n")
    split = write(beir.path, tmp_path / "out")["splits"]["test"]
    assert split["skipped"] == {"grades_below_0": 1}
    assert (split["queries"], split["queries_not_asked"], split["judgments"]) == (3, 2, 4)
    assert (
        "split test: 2 queries have no text or no relevant document; they are not searched and count as 0"
        in caplog.text
    )
    assert read_qrels(tmp_path / "out/splits/test/qrels.txt").keys() == {"q1", "q2", "q3"}
    assert read_queries(tmp_path / "out/splits/test/queries.jsonl") == {"q1": "a b c"}  # one line for each query


def test_no_query_with_a_relevant_document(beir) -> None:
    beir.qrels("q1\td1\t0\n")
    assert fails(beir) == "qrels/test.tsv: no query of split test has a relevant document"


def test_negative_grades_become_0(beir, tmp_path: Path) -> None:
    beir.qrels("q1\td1\t1\nq1\td2\t-2\n")
    write(beir.path, tmp_path / "out")
    assert read_qrels(tmp_path / "out/splits/test/qrels.txt") == {"q1": {"d1": 1, "d2": 0}}


def test_qrels_of_unknown_query_or_other_documents(beir) -> None:
    beir.qrels("query-id\tcorpus-id\tscore\nq1\td1\t0\nq1\td9\t1\n")
    assert fails(beir) == (
        "qrels/test.tsv: no relevant document of split test is among the documents; give documents and judgments of "
        "one collection"
    )
    beir.qrels("q1\td1\t1\nq9\td1\t0\n")
    assert fails(beir) == "qrels/test.tsv:2: query 'q9' is not among the queries; correct or delete the line"


def test_judgments_of_documents_that_the_collection_lacks_stay(
    beir, whole, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in ArguAna, where 5 queries have no other relevant document; `expected` counts these judgments."""
    beir.qrels("q1\td1\t1\nq1\td9\t0\nq1\td8\t2\nq2\td7\t1\n")
    source = FolderSource(FolderCollection(kind="folder", path=str(beir.path)), ["title", "text"])
    expected = Expected.model_validate({"splits": {"test": {"queries": 2, "judgments": 4}}})
    split = write_collection(source, ["test"], tmp_path / "out", expected)["splits"]["test"]
    counts = {"queries": 2, "judgments": 4, "relevant": 3, "judgments_without_text": 3, "relevant_without_text": 2}
    assert split == whole | counts
    assert (
        "split test: 3 judgments, 2 of them relevant, are of documents that are not in the collection;" in caplog.text
    )
    qrels = read_qrels(tmp_path / "out/splits/test/qrels.txt")
    assert qrels == {"q1": {"d1": 1, "d9": 0, "d8": 2}, "q2": {"d7": 1}}
    assert read_queries(tmp_path / "out/splits/test/queries.jsonl").keys() == {"q1", "q2"}
    # The ideal ranking begins with d8, which no run can have; q2 counts 0.
    found = evaluate(qrels, {"q1": [("d1", 1.0)], "q2": [("d1", 1.0)]}, ["nDCG@10", "Recall@10"]).mean()
    assert found == pytest.approx({"nDCG@10": 1 / (2 + 1 / math.log2(3)) / 2, "Recall@10": 0.25})


def test_repeated_judgments(beir, tmp_path: Path) -> None:
    beir.qrels("q1\td1\t1\nq1\td1\t1.0\n")
    assert write(beir.path, tmp_path / "x")["splits"]["test"]["skipped"] == {"judgments_repeated": 1}
    beir.qrels("q1\td1\t1\nq1\td1\t2\n")
    assert fails(beir) == (
        "qrels/test.tsv:2: query 'q1', document 'd1' has grade 1 already; correct or delete the line"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", "2 fields, but `query-id corpus-id score` (by tabs) has 3"),
        ("q1 0 d1 1", "4 fields, but `query-id corpus-id score` (by tabs) has 3"),
        ("q1\td1\thigh", "score 'high' is not a whole number"),
        ("q1\td1\t0.5", "score '0.5' is not a whole number"),
        ("q1\td1\tinf", "score 'inf' is not a whole number"),
        ("q1\td1\tnan", "score 'nan' is not a whole number"),
    ],
)
def test_malformed_qrels_line(beir, line: str, message: str) -> None:
    beir.qrels(f"query-id\tcorpus-id\tscore\nq1\td1\t1\n{line}\n")
    assert fails(beir) == f"qrels/test.tsv:3: {message}"


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_files(beir, content: bytes) -> None:
    beir.qrels(content)
    assert fails(beir) == "qrels/test.tsv: has no judgments"
    beir.qrels("query-id\tcorpus-id\tscore\n")
    assert fails(beir) == "qrels/test.tsv: has no judgments"
    beir.queries(content)
    assert fails(beir) == "queries.jsonl: has no queries"
    beir.corpus(content)
    assert fails(beir) == "corpus.jsonl: has no documents"


def test_missing_files(beir) -> None:
    assert fails(beir, splits=["dev"]) == "qrels/dev.tsv: no such file; existing splits: test"
    (beir.path / "queries.jsonl").unlink()
    assert fails(beir) == "queries.jsonl: cannot read: No such file or directory"
    (beir.path / "corpus.jsonl").unlink()
    assert fails(beir) == "corpus.jsonl: cannot read: No such file or directory"
    beir.path = beir.path / "elsewhere"
    assert fails(beir) == "beir: no such folder; correct path in params.yaml"


def test_sha256_of_files(beir, tmp_path: Path) -> None:
    write(beir.path, tmp_path / "x", **{"qrels/test.tsv": sha256(beir.path / "qrels/test.tsv")})
    message = fails(beir, **{"corpus.jsonl": "0" * 64})
    assert message.startswith("corpus.jsonl: sha256 is ") and f"expected {'0' * 64}" in message
    assert fails(beir, **{"corpus.csv": "0" * 64}) == "corpus.csv: no such file, but sha256 in params.yaml names it"


def test_half_surrogate_pairs_do_not_stop_the_writer(beir, tmp_path: Path) -> None:
    beir.corpus(b'{"_id": "d1", "text": "a\\ud800b"}\n')
    beir.qrels("q1\td1\t1\n")
    write(beir.path, tmp_path / "out")
    assert TextStore(tmp_path / "out/documents.jsonl")["d1"].replace("\ufffd", "") == "ab"


def test_output_below_a_file(beir, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out: cannot write: a file is in the place of a folder"):
        write(beir.path, tmp_path / "file" / "out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk(beir, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = texts_module.StoreWriter.__init__

    def full(self, path: Path, **options: Any) -> None:
        usual(self, path, **options)
        self._stream.close()
        self._stream = open("/dev/full", "wb")  # noqa: SIM115

    monkeypatch.setattr(texts_module.StoreWriter, "__init__", full)
    assert fails(beir).endswith("out/collection: cannot write: the disk is full; free space or choose another folder")
