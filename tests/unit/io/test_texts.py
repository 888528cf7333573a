"""Texts by id from a file on disk."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ssmrank.errors import UserError
from ssmrank.io import texts as module
from ssmrank.io.texts import DuplicateId, StoreWriter, TextStore, UnknownId, read_queries

TEXTS = {f"doc-{n}é": f"text {n} ünï\n\u2028" for n in range(500)}


def fill(path: Path) -> None:
    with StoreWriter(path) as writer:
        for number, (id, text) in enumerate(TEXTS.items()):
            writer.add(id, text, {"url": f"u{number}"} if number % 2 else None)


@pytest.fixture(params=["with arrays", "without", "arrays of another file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    fill(path)
    arrays = list(tmp_path.glob("*.npy"))
    assert len(arrays) == 3
    if request.param == "without":
        for file in arrays:
            file.unlink()
    elif request.param == "arrays of another file":
        with StoreWriter(tmp_path / "other.jsonl") as writer:
            writer.add("a", "b")
        for part in ("offsets", "keys", "rows"):
            (tmp_path / f"other.{part}.npy").replace(tmp_path / f"documents.{part}.npy")
    return path


def test_lookup(path: Path) -> None:
    store = TextStore(path)
    assert len(store) == 500
    assert list(store.ids()) == list(TEXTS)
    assert {id: store[id] for id in TEXTS} == TEXTS
    assert "doc-3é" in store and "doc-3" not in store and 3 not in store and "\ud800" not in store
    assert store.record("doc-3é") == {"id": "doc-3é", "text": TEXTS["doc-3é"], "url": "u3"}


def test_unknown_id_is_one_line(path: Path) -> None:
    with pytest.raises(UnknownId) as caught:
        TextStore(path)["doc-x"]
    assert isinstance(caught.value, UserError) and isinstance(caught.value, KeyError)
    assert str(caught.value) == f"{path}: has no id 'doc-x'; run, qrels and collection must belong together"


def test_sizes_are_those_of_the_lines(path: Path) -> None:
    store = TextStore(path)
    sizes = dict(zip(TEXTS, map(len, path.read_bytes().splitlines(keepends=True)), strict=True))
    asked = list(TEXTS)[::-3]
    assert store.sizes(asked).tolist() == [sizes[id] for id in asked]
    assert store.sizes([]).tolist() == []
    with pytest.raises(UnknownId, match="has no id 'doc-x'; run, qrels and collection"):
        store.sizes(["doc-1é", "doc-x"])


def test_pickle_and_threads(path: Path) -> None:
    store = pickle.loads(pickle.dumps(TextStore(path)))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(store.__getitem__, TEXTS)) == list(TEXTS.values())


def test_arrays_are_mapped_not_read(tmp_path: Path) -> None:
    fill(tmp_path / "documents.jsonl")
    store = TextStore(tmp_path / "documents.jsonl")
    for values in (store._offsets, store._keys, store._rows):
        base = values
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)


@pytest.mark.parametrize("arrays", [True, False])
def test_ids_that_share_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: bool) -> None:
    monkeypatch.setattr(module, "_key", lambda id: len(id))
    with StoreWriter(tmp_path / "a.jsonl") as writer:
        for id in ("aa", "b", "bb", "c", "cc"):
            writer.add(id, id.upper())
    if not arrays:
        for file in tmp_path.glob("*.npy"):
            file.unlink()
    store = TextStore(tmp_path / "a.jsonl")
    assert [store[id] for id in ("aa", "bb", "cc", "b", "c")] == ["AA", "BB", "CC", "B", "C"]
    assert "dd" not in store and "ddd" not in store


def test_duplicate_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (module._key, lambda id: 1):
        monkeypatch.setattr(module, "_key", key)
        writer = StoreWriter(tmp_path / "a.jsonl")
        for id in ("a", "b", "c", "b", "a"):
            writer.add(id, "")
        with pytest.raises(DuplicateId, match=r"a\.jsonl:4: id 'b' is already in line 2") as caught:
            writer.close()
        assert (caught.value.id, caught.value.first, caught.value.second) == ("b", 1, 3)
        with pytest.raises(DuplicateId):  # also without arrays
            TextStore(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": is empty"),
        (b'{"id": "a", "text": "b"}\n{"id": \n', ":2: malformed JSON"),
        (b'{"id": "a", "text": "b"}\n{"id": "b"}\n', ':2: needs "id" and "text", both strings'),
        (b'{"id": 1, "text": "b"}\n', ':1: needs "id" and "text", both strings'),
        (b'{"id": "a", "text": "\xff"}\n', ":1: byte 22 is not UTF-8"),
        (b'{"id": "a", "text": "b"}\n\n', ":2: the line is blank; delete it"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError) as caught:
        TextStore(tmp_path / "a.jsonl")
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl{message}")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl: cannot read: No such file"):
        TextStore(tmp_path / "a.jsonl")


def test_read_queries(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"id": "b", "text": "B"}\n{"id": "a", "text": "A"}\n')
    assert list(read_queries(path).items()) == [("b", "B"), ("a", "A")]
    for line, message in (
        ({"id": "a", "text": ""}, "id 'a' appears twice; keep one line"),
        ({"id": "c"}, 'needs "id"'),
    ):
        with path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        with pytest.raises(UserError, match=f":3: {message}"):
            read_queries(path)
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))


def test_repeated_records_are_dropped_and_others_of_their_id_are_not(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "documents.jsonl", drop_repeated=True) as writer:
        for id, text in (("a", "one"), ("b", "two"), ("a", "one"), ("c", "three"), ("a", "one"), ("b", "two")):
            writer.add(id, text)
    store = TextStore(tmp_path / "documents.jsonl")
    assert (len(writer), len(store), list(store.ids())) == (3, 3, ["a", "b", "c"])
    assert [store[id] for id in "abc"] == ["one", "two", "three"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "documents.jsonl",
        "documents.keys.npy",
        "documents.offsets.npy",
        "documents.rows.npy",
    ]
    with (
        pytest.raises(DuplicateId, match="id 'a' is already in line 1"),
        StoreWriter(tmp_path / "other.jsonl", drop_repeated=True) as writer,
    ):
        for text in ("one", "two", "one"):
            writer.add("a", text)
