"""Semanlink's adapter on an archive made here."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ssmrank.collections.canonical import write_collection
from ssmrank.collections.semanlink import SemanlinkSource, document_id, position
from ssmrank.config.collections import SemanlinkSource as Settings
from ssmrank.errors import UserError
from ssmrank.io.checksum import sha256
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import read_qrels

FIELDS = ["title", "arxiv_summary", "comment"]
TAG = "http://example.org/tag/"


def bookmark(number: int, tags: list[str], title: str = "a title of words", **fields: str) -> dict[str, Any]:
    record = {"document": f"http://example.org/{number}", "tag": [TAG + tag for tag in tags], "title": title}
    return record | {"arxiv_summary": "", "comment": ""} | fields


def tag(*labels: str) -> dict[str, Any]:
    return {"prefLabel": list(labels)}


def settings(archives: Path, docs: Any, tags: Any, **changes: Any) -> Settings:
    """Settings for an archive that is already in the cache, so that nothing is downloaded."""
    path = archives / "pack-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("docs.json", docs), ("tags.json", tags)):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(f"pack-1/data/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    values = {"kind": "package", "package": "pack", "version": "1", "archive": "sdist", "sha256": sha256(path)}
    values |= {"adapter": "semanlink", "folder": "pack-1/data", "min_relevant": 2, "max_relevant": 3}
    return Settings.model_validate(values | changes)


def splits_of(names: list[str], share: float = 0.7) -> dict[str, str]:
    return {name: "train" if position(TAG + name) < share else "test" for name in names}


def test_documents_queries_and_judgments(tmp_path: Path) -> None:
    names = ["rare", "two", "three", "four", "unlabelled"]
    docs = [
        bookmark(1, ["two", "three", "four"], comment="with a comment", arxiv_summary=" and a summary "),
        bookmark(2, ["two", "three", "four", "three"]),
        bookmark(3, ["three", "four", "unlabelled", "rare"]),
        bookmark(4, ["four", "unlabelled"]),
        bookmark(5, ["two", "rare"], title="too short"),
        bookmark(6, ["two"], title=" ", comment="a comment without a title"),
        bookmark(7, []),
    ]
    tags = {TAG + name: tag(f"Label {name}", "other label") for name in names[:-1]} | {TAG + "unlabelled": tag()}
    source = SemanlinkSource(settings(tmp_path, docs, tags), FIELDS, tmp_path)
    statistics = write_collection(source, _present(["two", "three"]), tmp_path / "out")
    assert statistics["documents"] == 4
    assert statistics["documents_left_out"] == {"untitled": 1, "short": 1, "untagged": 1}
    ids = {number: document_id(f"http://example.org/{number}") for number in (1, 2, 3, 4)}
    store = TextStore(tmp_path / "out/documents.jsonl")
    assert list(store.ids()) == list(ids.values())
    assert store[ids[1]] == "a title of words and a summary with a comment"
    assert store.record(ids[2])["url"] == "http://example.org/2"
    expected = {"two": {ids[1]: 1, ids[2]: 1}, "three": {ids[1]: 1, ids[2]: 1, ids[3]: 1}}
    for name, split in splits_of(["two", "three"]).items():
        folder = tmp_path / "out/splits" / split
        assert read_queries(folder / "queries.jsonl")[name] == f"Label {name}"
        assert read_qrels(folder / "qrels.txt")[name] == expected[name]
    assert sum(counts["queries"] for counts in statistics["splits"].values()) == 2


def _present(names: list[str]) -> list[str]:
    return sorted(set(splits_of(names).values()))


def test_split_depends_on_the_tag_alone(tmp_path: Path) -> None:
    names = [f"tag{number}" for number in range(300)]
    docs = [bookmark(number, names) for number in range(2)]
    found = []
    for order in (names, names[::-1]):
        source = SemanlinkSource(settings(tmp_path, docs, {TAG + name: tag(name) for name in order}), FIELDS, tmp_path)
        found.append({split: [query.id for query in source.queries(split)] for split in ("train", "test")})
    assert found[0] == found[1]
    assert sorted(found[0]["train"] + found[0]["test"]) == sorted(names)
    assert 0.6 < len(found[0]["train"]) / 300 < 0.8


def test_known_values() -> None:
    # The value is fixed, because another hash would change splits and ids: sha256("abc") = ba7816bf8f01cfea...
    assert document_id("abc") == "dba7816bf8f0"
    assert position("abc") == 0xBA7816BF8F01 / 2**48


def test_unknown_split(tmp_path: Path) -> None:
    source = SemanlinkSource(settings(tmp_path, [bookmark(1, ["a"])], {TAG + "a": tag("A")}), FIELDS, tmp_path)
    with pytest.raises(UserError, match="splits: Semanlink has no split 'dev', only train and test"):
        write_collection(source, ["dev"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("docs", "tags", "message"),
    [
        (b"[{", {}, "docs.json: malformed JSON or not UTF-8 (Expecting property name"),
        (b'["\xff"]', {}, "docs.json: malformed JSON or not UTF-8 ('utf-8' codec"),
        ({}, {}, "docs.json: is not a list; this is not the archive of Semanlink"),
        ([], [], "tags.json: is not a dict; this is not the archive of Semanlink"),
        (["x"], {}, "docs.json, document number 1: is not a JSON object"),
        ([{"title": "a"}], {}, 'docs.json, document number 1: needs a string "document" and a list "tag"'),
        ([{"document": "u", "tag": []}], {}, "docs.json, document number 1: no field 'title' or 'arxiv_summary'"),
    ],
)
def test_another_archive_than_expected(tmp_path: Path, docs: Any, tags: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        SemanlinkSource(settings(tmp_path, docs, tags), FIELDS, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/pack-1.tar.gz, {message}")
    assert "\n" not in str(caught.value)


def test_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pack-1.tar.gz: has no file pack-1/no/docs.json; correct folder"):
        SemanlinkSource(settings(tmp_path, [], {}, folder="pack-1/no"), FIELDS, tmp_path)


def test_same_bookmark_twice(tmp_path: Path) -> None:
    docs = [bookmark(1, ["a"]), bookmark(2, ["a"]), bookmark(1, ["a"])]
    source = SemanlinkSource(settings(tmp_path, docs, {TAG + "a": tag("A")}), FIELDS, tmp_path)
    with pytest.raises(UserError, match=r"document number 3: document id .* is already used at .*document number 1"):
        write_collection(source, ["train"], tmp_path / "out")
