"""The collections of params/paper.yaml through ir_datasets' own code, on small files in the layout of its downloads."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssmrank.config.collections import Collection
from ssmrank.config.params import read_params
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import read_qrels

pytest.importorskip("ir_datasets")

BEIR_SPLITS = {
    "beir/arguana": ["test"],
    "beir/climate-fever": ["test"],
    "beir/dbpedia-entity": ["dev", "test"],
    "beir/fever": ["train", "dev", "test"],
    "beir/fiqa": ["train", "dev", "test"],
    "beir/hotpotqa": ["train", "dev", "test"],
    "beir/nfcorpus": ["train", "dev", "test"],
    "beir/nq": ["test"],
    "beir/quora": ["dev", "test"],
    "beir/scidocs": ["test"],
    "beir/scifact": ["train", "test"],
    "beir/trec-covid": ["test"],
    "beir/webis-touche2020/v2": ["test"],
}

EVERYTHING = ["url", "pubmed_id", "stance", "authors", "year", "cited_by", "references"]

# One new process for all of them, because ir_datasets looks for its folder when it is imported.
WRITE = """
import json, sys
from pathlib import Path
from ssmrank.collections.canonical import write_collection
from ssmrank.collections.opening import open_source
from ssmrank.config.collections import Collection
from ssmrank.errors import UserError
for name, settings in json.load(sys.stdin).items():
    section = Collection.model_validate(settings)
    try:
        found = write_collection(open_source(section, "."), section.splits, Path(name), section.expected)
    except UserError as error:
        found = str(error)
    print(json.dumps([name, found]))
"""


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def lay_out_msmarco(home: Path) -> None:
    passage = home / "msmarco-passage"
    put(passage / "irds_version.txt", "v2")
    put(passage / "collection.tsv", "0\tThe first passage.\n1\tA second one.\n2\tThé third.\n")
    put(passage / "train/queries.tsv", "10\tfirst question\n11\tanother\n12\tunjudged\n")
    put(passage / "train/qrels", "10 0 0 1\n11 0 2 1\n11 0 1 1\n")
    put(passage / "dev/small/queries.tsv", "20\tdev question\n21\tsecond dev question\n")
    put(passage / "dev/small/qrels", "20 0 1 1\n21 0 0 1\n")
    put(passage / "trec-dl-2019/queries.tsv", "30\tjudged topic\n31\tunjudged topic\n")
    put(passage / "trec-dl-2019/qrels", "30 Q0 0 3\n30 Q0 1 0\n30 Q0 2 1\n")
    put(passage / "trec-dl-2020/queries.tsv.gz", "40\tjudged topic\n41\tanother\n")
    put(passage / "trec-dl-2020/qrels", "40 0 2 2\n40 0 0 0\n")
    document = home / "msmarco-document"
    pages = {"D1": "http://a.example/\nA title\nBody of\nthe first.", "D2": "http://b.example/\n\nSecond."}
    texts = (f"<DOC>\n<DOCNO>{id}</DOCNO>\n<TEXT>\n{page}\n</TEXT>\n</DOC>\n" for id, page in pages.items())
    put(document / "collection.tsv.gz", "".join(texts))
    for split, query in (("train", 50), ("dev", 60)):
        put(document / split / "queries.tsv.gz", f"{query}\t{split} question\n")
        put(document / split / "qrels.gz", f"{query} 0 D1 1\n")
    for year, query in (("2019", 70), ("2020", 80)):
        put(document / f"trec-dl-{year}/queries.tsv.gz", f"{query}\ttopic\n{query + 1}\tunjudged\n")
        put(document / f"trec-dl-{year}/qrels", f"{query} 0 D1 3\n{query} 0 D2 0\n")


def lay_out_beir(home: Path, id: str, splits: list[str]) -> None:
    name = id.split("/")[1]
    meta = {field: [] if field in ("cited_by", "references", "authors") else f"a {field}" for field in EVERYTHING}
    documents = [
        {"_id": "d1", "title": "A title", "text": "A text.", "metadata": meta},
        {"_id": "q1", "title": "Its own", "text": "The query itself.", "metadata": meta},
        {"_id": "d2", "title": "", "text": "", "metadata": meta},
        {"_id": "d1", "title": "A title", "text": "A text.", "metadata": meta},
    ]
    meta = meta | {"description": "A description.", "narrative": "A narrative.", "query": "words"}
    queries = [{"_id": f"q{number}", "text": f"Question {number}?", "metadata": meta} for number in (1, 2, 3)]
    path = home / id / "source.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/corpus.jsonl", "".join(json.dumps(document) + "\n" for document in documents))
        archive.writestr(f"{name}/queries.jsonl", "".join(json.dumps(query) + "\n" for query in queries))
        for split in splits:
            judgments = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\tgone\t1\nq2\td1\t1\nq2\td2\t0\n"
            archive.writestr(f"{name}/qrels/{split}.tsv", judgments)


def write(folder: Path, settings: dict[str, Collection]) -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, "-c", WRITE],
        input=json.dumps({name: section.model_dump(mode="json") for name, section in settings.items()}),
        cwd=folder,
        env=os.environ | {"IR_DATASETS_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return dict(json.loads(line) for line in finished.stdout.splitlines())


@pytest.fixture(scope="module")
def paper() -> dict[str, Collection]:
    root = Path(__file__).parents[3]
    params = read_params(*(root / name for name in ("params.yaml", "params/paper-models.yaml", "params/paper.yaml")))
    return {name: section for name, section in params.collections.items() if section.source.kind == "ir_datasets"}


@pytest.fixture(scope="module")
def written(paper: dict[str, Collection], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("irds")
    lay_out_msmarco(folder / "home")
    for id, splits in BEIR_SPLITS.items():
        lay_out_beir(folder / "home", id, splits)
    small = {
        name: section.model_copy(
            update={
                "expected": section.expected.model_copy(
                    update={"documents": {"msmarco-passage": 3, "msmarco-document": 2}.get(name, 4), "splits": {}}
                )
            }
        )
        for name, section in paper.items()
    }
    return folder, write(folder, small)


def test_every_collection_is_read(
    written: tuple[Path, dict[str, Any]], paper: dict[str, Collection], whole: dict[str, Any]
) -> None:
    found = written[1]
    assert len(found) == 15 == len(paper)
    assert all(isinstance(statistics, dict) for statistics in found.values()), found
    assert found["msmarco-passage"]["splits"]["train"]["queries"] == 2
    assert found["msmarco-passage"]["splits"]["dl19"] == whole | {"queries": 1, "judgments": 3, "relevant": 2}
    assert found["msmarco-document"]["splits"]["dl20"] == whole | {"queries": 1, "judgments": 2, "relevant": 1}
    for name, statistics in found.items():
        if not name.startswith("msmarco"):
            assert (statistics["documents"], statistics["documents_empty"]) == (3, 1), name
            assert statistics["splits"]["test"]["queries"] == 2
            assert statistics["splits"]["test"]["judgments_without_text"] == 1


def test_text_is_the_joined_fields(written: tuple[Path, dict[str, Any]]) -> None:
    folder = written[0]
    assert TextStore(folder / "msmarco-passage/documents.jsonl")["2"] == "Thé third."
    documents = TextStore(folder / "msmarco-document/documents.jsonl")
    assert documents["D1"] == "http://a.example/ A title Body of\nthe first."
    assert documents["D2"] == "http://b.example/ Second."
    assert TextStore(folder / "nfcorpus/documents.jsonl")["d1"] == "A title A text."
    assert TextStore(folder / "fiqa/documents.jsonl")["d1"] == "A text."
    # The topics have several fields; this is the one that BEIR takes.
    for name in ("touche", "trec-covid", "scidocs"):
        assert read_queries(folder / name / "splits/test/queries.jsonl")["q1"] == "Question 1?"
    assert read_qrels(folder / "touche/splits/test/qrels.txt") == {"q1": {"d1": 2, "gone": 1}, "q2": {"d1": 1, "d2": 0}}


def test_other_query_fields(written: tuple[Path, dict[str, Any]], paper: dict[str, Collection]) -> None:
    folder = written[0]
    fields = {"query_fields": ["text", "description"], "expected": {}}
    settings = Collection.model_validate(paper["touche"].model_dump() | fields)
    wrong = Collection.model_validate(paper["touche"].model_dump() | fields | {"query_fields": ["title"]})
    found = write(folder, {"fields": settings, "wrong": wrong})
    assert read_queries(folder / "fields/splits/test/queries.jsonl")["q1"] == "Question 1? A description."
    assert "have no field 'title', only query_id, text, description, narrative; correct query_fields" in found["wrong"]


def test_a_partial_collection_is_an_error(written: tuple[Path, dict[str, Any]], paper: dict[str, Collection]) -> None:
    folder = written[0]
    only = paper["scifact"].model_copy(deep=True)
    splits = {"expected": {"splits": {"test": {"judgments": 339}}}}
    queries = {"expected": {"documents": 4, "splits": {"test": {"queries": 300, "judgments": 4}}}}
    found = write(
        folder,
        {
            "partial": only,
            "partial-qrels": Collection.model_validate(only.model_dump() | splits),
            "partial-queries": Collection.model_validate(only.model_dump() | queries),
        },
    )
    assert found["partial"].startswith("ir_datasets beir/scifact: 4 documents, but 5,183 are expected; it is incom")
    assert "beir/scifact/test: 4 judgments, but 339 are expected" in found["partial-qrels"]
    assert "beir/scifact/test: 2 queries with judgments, but 300 are expected" in found["partial-queries"]
    assert not any((folder / name).exists() for name in found)


SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "collections"


def records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        yield from map(json.loads, stream)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared collections: set SSMRANK_SHARED")
def test_real_collections_through_ir_datasets(paper: dict[str, Collection], tmp_path: Path) -> None:
    """NFCorpus and SciFact with params/paper.yaml's expected numbers; MS MARCO's passages judged in TREC DL 2019."""
    home = tmp_path / "home"
    for name in ("nfcorpus", "scifact"):
        (home / "beir" / name).mkdir(parents=True)
        with zipfile.ZipFile(home / f"beir/{name}/source.zip", "w") as archive:
            for file in ("corpus.jsonl", "queries.jsonl"):
                lines = records(SHARED / name / file)
                full = (json.dumps({"metadata": dict.fromkeys(EVERYTHING, "")} | line) + "\n" for line in lines)
                archive.writestr(f"{name}/{file}", "".join(full))
            for file in (SHARED / name / "qrels").glob("*.tsv"):
                archive.write(file, f"{name}/qrels/{file.name}")
    judged = SHARED / "msmarco-dl19"
    texts = records(judged / "corpus.jsonl")
    passages = (f"{passage['_id']}\t{' '.join(passage['text'].split())}\n" for passage in texts)
    lay_out_msmarco(home)
    put(home / "msmarco-passage/collection.tsv", "".join(passages))
    queries = (f"{query['_id']}\t{query['text']}\n" for query in records(judged / "queries.jsonl"))
    put(home / "msmarco-passage/trec-dl-2019/queries.tsv", "".join(queries))
    rows = (line.split("\t") for line in (judged / "qrels/test.tsv").read_text().splitlines()[1:])
    put(home / "msmarco-passage/trec-dl-2019/qrels", "".join(f"{q} Q0 {d} {grade}\n" for q, d, grade in rows))
    msmarco = paper["msmarco-passage"]
    dl19 = msmarco.model_copy(update={"splits": ["dl19"], "expected": type(msmarco.expected)()})
    found = write(tmp_path, {"nfcorpus": paper["nfcorpus"], "scifact": paper["scifact"], "dl19": dl19})
    assert {name: facts["documents"] for name, facts in found.items()} == {
        "nfcorpus": 3633,
        "scifact": 5183,
        "dl19": 15939,
    }
    assert found["nfcorpus"]["splits"]["test"]["queries"] == 323
    assert found["scifact"]["splits"]["test"]["judgments"] == 339
    assert found["dl19"]["splits"]["dl19"]["queries"] == 43
    # Judged passages without text have grade 0: all relevant passages are there.
    assert found["dl19"]["splits"]["dl19"]["judgments_without_text"] == 3566
    relevant = read_qrels(tmp_path / "dl19/splits/dl19/qrels.txt")
    assert sum(grade > 0 for grades in relevant.values() for grade in grades.values()) == 4102
