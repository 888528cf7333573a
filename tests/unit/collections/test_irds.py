"""ir_datasets with collections registered from local files; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

ir_datasets = pytest.importorskip("ir_datasets")
from ir_datasets.datasets.base import Dataset  # noqa: E402
from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries  # noqa: E402
from ir_datasets.formats.base import GenericDoc, GenericQuery  # noqa: E402
from ir_datasets.util import LocalDownload  # noqa: E402

from ssmrank.collections.canonical import write_collection  # noqa: E402
from ssmrank.collections.irds import IrDatasetsSource  # noqa: E402
from ssmrank.config.collections import IrDatasetsCollection  # noqa: E402
from ssmrank.errors import UserError  # noqa: E402
from ssmrank.io.texts import TextStore, read_queries  # noqa: E402
from ssmrank.io.trec import read_qrels  # noqa: E402

DEFAULT_FIELDS = ["title", "text"]


class PageDoc(NamedTuple):
    doc_id: str
    title: str
    body: str

    def default_text(self) -> str:
        return f"default: {self.title} / {self.body}"


class Topic(NamedTuple):
    query_id: str
    title: str
    narrative: str

    def default_text(self) -> str:
        return self.title


class Local:
    """Registers collections `ssmrank-test/NAME` of local files, and removes them afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []

    def _file(self, name: str, text: str | bytes | None) -> LocalDownload:
        name = name.replace("/", "-")
        if text is not None:
            (self.folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return LocalDownload(self.folder / name)

    def register(
        self,
        name: str,
        docs: str | bytes | None = None,
        queries: str | None = None,
        qrels: str | None = None,
        doc: type = GenericDoc,
        query: type = GenericQuery,
        missing: bool = False,
    ) -> str:
        parts = []
        if docs is not None or missing:
            parts.append(TsvDocs(self._file(f"{name}.docs", docs), doc))
        if queries is not None:
            parts.append(TsvQueries(self._file(f"{name}.queries", queries), query))
        if qrels is not None:
            parts.append(TrecQrels(self._file(f"{name}.qrels", qrels), {0: "no", 1: "yes"}))
        self.names.append(f"ssmrank-test/{name}")
        ir_datasets.registry.register(self.names[-1], Dataset(*parts))
        return self.names[-1]


@pytest.fixture
def local(tmp_path: Path):
    (tmp_path / "files").mkdir()
    made = Local(tmp_path / "files")
    yield made
    for name in made.names:
        del ir_datasets.registry._registered[name]


DOCS = "d1\tone\nd2\ttwo\nd3\t\n"
QUERIES = "q1\tfirst\nq2\tsecond\nq3\tthird\n"


def write(output: Path, documents: str, fields: list[str] = DEFAULT_FIELDS, **splits: str):
    source = IrDatasetsSource(IrDatasetsCollection(kind="ir_datasets", documents=documents, splits=splits), fields)
    return write_collection(source, list(splits), output)


def fails(output: Path, *arguments, **splits: str) -> str:
    with pytest.raises(UserError) as caught:
        write(output, *arguments, **splits)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    return str(caught.value)


def test_documents_of_one_id_and_splits_of_others(local: Local, whole, tmp_path: Path) -> None:
    documents = local.register("docs", DOCS)
    train = local.register("train", queries=QUERIES, qrels="q1 0 d1 1\nq1 0 d2 0\n")
    test = local.register("test", DOCS, QUERIES, "q3 0 d2 2\nq2 0 d1 0\n")
    statistics = write(tmp_path / "out", documents, train=train, test=test)
    assert {id: TextStore(tmp_path / "out/documents.jsonl")[id] for id in ("d1", "d2", "d3")} == {
        "d1": "one",
        "d2": "two",
        "d3": "",
    }
    assert read_queries(tmp_path / "out/splits/train/queries.jsonl") == {"q1": "first"}
    assert read_qrels(tmp_path / "out/splits/train/qrels.txt") == {"q1": {"d1": 1, "d2": 0}}
    assert read_qrels(tmp_path / "out/splits/test/qrels.txt") == {"q3": {"d2": 2}, "q2": {"d1": 0}}
    assert read_queries(tmp_path / "out/splits/test/queries.jsonl").keys() == {"q3"}
    assert statistics["documents_empty"] == 1
    assert statistics["splits"] == {
        "train": whole | {"judgments": 2, "relevant": 1, "skipped": {"queries_without_judgments": 2}},
        "test": whole
        | {"queries": 2, "queries_not_asked": 1, "judgments": 2, "relevant": 1}
        | {"skipped": {"queries_without_judgments": 1}},
    }


def test_judgments_that_do_not_fit_are_left_out_with_a_count(local: Local, tmp_path: Path) -> None:
    qrels = "q1 0 d1 1\nq1 0 d9 1\nq9 0 d1 1\nq1 0 d1 2\nq1 0 d1 1\nq1 0 d2 -1\n"
    id = local.register("all", DOCS, QUERIES, qrels)
    split = write(tmp_path / "out", id, test=id)["splits"]["test"]
    assert split["skipped"] == {
        "grades_below_0": 1,
        "judgments_contradicting": 1,
        "judgments_of_unknown_queries": 1,
        "judgments_repeated": 1,
        "queries_without_judgments": 2,
    }
    assert read_qrels(tmp_path / "out/splits/test/qrels.txt") == {"q1": {"d1": 1, "d9": 1, "d2": 0}}
    assert (split["judgments_without_text"], split["relevant_without_text"]) == (1, 1)


def test_documents_and_queries_with_several_fields(local: Local, tmp_path: Path) -> None:
    docs, queries = "d1\tTitle\tBody\n", "q1\tshort\ta long story\n"
    id = local.register("fields", docs, queries, "q1 0 d1 1\n", doc=PageDoc, query=Topic)
    texts = []
    for number, fields in enumerate((DEFAULT_FIELDS, ["title", "body"], ["body"])):
        write(tmp_path / f"out{number}", id, fields, test=id)
        texts.append(TextStore(tmp_path / f"out{number}/documents.jsonl")["d1"])
    assert texts == ["default: Title / Body", "Title Body", "Body"]
    assert read_queries(tmp_path / "out0/splits/test/queries.jsonl") == {"q1": "short"}
    assert fails(tmp_path / "out", id, ["title", "abstract"], test=id) == (
        f"ir_datasets {id}: documents have no field 'abstract', only doc_id, title, body; "
        "correct text_fields in params.yaml"
    )


def test_unknown_id(local: Local, tmp_path: Path) -> None:
    local.register("scifact", DOCS, QUERIES, "q1 0 d1 1\n")
    message = fails(tmp_path / "out", "ssmrank-test/scifac", test="ssmrank-test/scifact")
    assert message == "ir_datasets ssmrank-test/scifac: no such id; did you mean 'ssmrank-test/scifact'?"


def test_id_without_the_part(local: Local, tmp_path: Path) -> None:
    documents = local.register("whole", DOCS)
    queries = local.register("whole/queries", queries=QUERIES)
    full = local.register("whole/full", DOCS, QUERIES, "q1 0 d1 1\n")
    assert fails(tmp_path / "out", queries, test=full).startswith(f"ir_datasets {queries}: has no docs; choose")
    assert fails(tmp_path / "out", documents, test=documents).startswith(f"ir_datasets {documents}: has no queries;")
    assert fails(tmp_path / "out", documents, test=queries).startswith(f"ir_datasets {queries}: has no qrels; choose")


def test_split_without_an_id(local: Local, tmp_path: Path) -> None:
    id = local.register("all", DOCS, QUERIES, "q1 0 d1 1\n")
    source = IrDatasetsSource(IrDatasetsCollection(kind="ir_datasets", documents=id, splits={"test": id}), ["text"])
    with pytest.raises(UserError, match="no ir_datasets id is given for split 'dev', only for test"):
        write_collection(source, ["test", "dev"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_library_raises_is_one_line(local: Local, tmp_path: Path) -> None:
    split = local.register("split", queries=QUERIES, qrels="q1 0 d1 1\n")
    missing = local.register("missing", missing=True)
    message = fails(tmp_path / "out", missing, test=split)
    assert message.startswith(f"ir_datasets {missing}: cannot read: ") and "check the network" in message
    broken = local.register("broken", b"d1\tone\nd2\t\xff\xff\n")
    assert fails(tmp_path / "out", broken, test=split).startswith(f"ir_datasets {broken}: cannot read: 'utf-8' codec")


def test_duplicates_and_white_space(local: Local, tmp_path: Path) -> None:
    split = local.register("split", queries=QUERIES, qrels="q1 0 d1 1\n")
    twice = local.register("twice", "d1\ta\nd2\tb\nd1\tc\n")
    assert fails(tmp_path / "out", twice, test=split) == (
        f"ir_datasets {twice}, document number 3: document id 'd1' is already used at "
        f"ir_datasets {twice}, document number 1 with another text; keep one of them"
    )
    spaces = local.register("spaces", "d 1\ta\n")
    assert "document id 'd 1' contains white space" in fails(tmp_path / "out", spaces, test=split)


def test_documents_are_streamed(local: Local, tmp_path: Path) -> None:
    id = local.register("all", DOCS, QUERIES, "q1 0 d1 1\n")
    source = IrDatasetsSource(IrDatasetsCollection(kind="ir_datasets", documents=id, splits={"test": id}), ["text"])
    documents = source.documents()
    assert next(documents).id == "d1"
    (tmp_path / "files/all.docs").unlink()  # reading goes on from the open file; nothing was read into a list first
    assert [document.id for document in documents] == ["d2", "d3"]
