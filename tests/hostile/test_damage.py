"""Files that commands wrote and that were damaged since: indexes, vectors, text stores, MLflow's database."""

from __future__ import annotations

import io
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from places import NO_FILES, place

from ssmrank.config.retrievers import HnswIndex
from ssmrank.errors import UserError
from ssmrank.io.sealed import check_seal, seal
from ssmrank.io.texts import StoreWriter, TextStore
from ssmrank.reporting.curves import read_curve
from ssmrank.reporting.results import read_result
from ssmrank.retrieval.vector_index import build_index, check_index, search_index
from ssmrank.retrieval.vectors import Vectors, encode_collection
from ssmrank.tracking import store


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def array_file(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def archive_file() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, np.arange(3))
    return stream.getvalue()


ARRAYS = {
    "empty": b"",
    "text": b"no array",
    "a header alone": array_file(np.arange(5, dtype=np.uint64))[:40],
    "cut off": array_file(np.arange(6, dtype=np.uint64))[:-3],
    "an archive": archive_file(),
    "objects": array_file(np.array([{}, {}, {}, {}, {}, {}], dtype=object)),
    "floats": array_file(np.zeros(6)),
    "a number": array_file(np.array(5, dtype=np.uint64)),
    "none": array_file(np.empty(0, dtype=np.uint64)),
    "huge values": array_file(np.full(6, 2**63, dtype=np.uint64)),
    "rows beyond the end": array_file(np.full(5, 77, dtype=np.uint32)),
}


@pytest.mark.parametrize("part", ["offsets", "keys", "rows"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_beside_documents_are_made_again(tmp_path: Path, name: str, part: str) -> None:
    with StoreWriter(tmp_path / "documents.jsonl") as writer:
        for number in range(5):
            writer.add(f"d{number}", f"text {number}")
    (tmp_path / f"documents.{part}.npy").write_bytes(ARRAYS[name])
    texts = TextStore(tmp_path / "documents.jsonl")
    assert [texts[f"d{number}"] for number in range(5)] == [f"text {number}" for number in range(5)]
    assert "d5" not in texts


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    with StoreWriter(path) as writer:
        for number in range(5):
            writer.add(f"d{number}", f"text {number}")
    path.write_bytes(path.read_bytes().replace(b'"d3", "text"', b'"d3"! "text"'))
    with pytest.raises(UserError, match=r"documents\.jsonl:4: damaged; delete its folder and run again"):
        _ = TextStore(path)["d3"]


class Encoder:
    width = 8

    def documents(self, texts: list[str]) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((len(texts), self.width)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    with StoreWriter(folder / "documents.jsonl") as writer:
        for number in range(50):
            writer.add(f"d{number}", "text")
    encode_collection(Encoder(), folder / "documents.jsonl", folder / "vectors", folder / "state", 30, "x")
    build_index(HnswIndex(kind="hnsw"), Vectors(folder / "vectors"), folder / "index", 1)
    return folder


@pytest.mark.parametrize("file", ["ids.npy", "vectors-00000.npy", "vectors-00001.npy"])
@pytest.mark.parametrize("name", [*ARRAYS, "missing", "folder"])
def test_damaged_vectors_are_refused(vectors: Path, tmp_path: Path, name: str, file: str) -> None:
    folder = shutil.copytree(vectors / "vectors", tmp_path / "vectors")
    place(folder / file, ARRAYS.get(name, name))
    with pytest.raises(UserError, match="; encode again") as caught:
        list(Vectors(folder).shards())
    assert file in str(caught.value)


DESCRIPTIONS: dict[str, bytes | str] = {
    "a list": b"[]",
    "text": b"{",
    "empty": b"",
    "no UTF-8": b"\xff",
    "deep": b"[" * 100_000,
    "no keys": b"{}",
    "text for a number": b'{"documents": "x", "width": 8, "shard_documents": 30}',
    "true for a number": b'{"documents": true, "width": 8, "shard_documents": 30}',
    **{kind: kind for kind in NO_FILES},
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_damaged_description_is_refused(vectors: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(vectors / "vectors", tmp_path / "vectors")
    place(folder / "vectors.json", DESCRIPTIONS[name])
    with pytest.raises(UserError, match="vectors"):
        Vectors(folder)


@pytest.mark.parametrize("file", ["index.faiss", "digests.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_a_damaged_index_of_vectors_is_refused(vectors: Path, tmp_path: Path, damage: str, file: str) -> None:
    folder = shutil.copytree(vectors / "index", tmp_path / "index")
    content = (folder / file).read_bytes()
    damaged = {"flip": flipped(content, len(content) // 2), "cut": content[:-9], "empty": b"", "missing": "missing"}
    place(folder / file, damaged[damage])
    with pytest.raises(UserError, match=r"make .* with `ssmrank index faiss`"):
        check_index(folder)


def test_an_index_of_other_vectors_is_refused(vectors: Path) -> None:
    check_index(vectors / "index")
    with pytest.raises(UserError, match="the index has another kind or width"):
        search_index(vectors / "index", HnswIndex(kind="hnsw"), np.zeros((1, 9), dtype=np.float32), 3, 1)


SEALS = {
    "a list": b"[]",
    "a number for a digest": b'{"file": 5}',
    "a file that leads out": b'{"../../../etc/absent": "x"}',
    "a device": b'{"/dev/zero": "x"}',
    **{name: content for name, content in DESCRIPTIONS.items() if name in ("text", "empty", "deep", "pipe", "missing")},
}


@pytest.mark.parametrize("name", SEALS)
def test_a_damaged_seal_is_refused(tmp_path: Path, name: str) -> None:
    place(tmp_path / "sealed/file", b"content")
    seal(tmp_path / "sealed")
    check_seal(tmp_path / "sealed", "make it again")
    place(tmp_path / "sealed/digests.json", SEALS[name])
    with pytest.raises(UserError):
        check_seal(tmp_path / "sealed", "make it again")


def database(path: Path, tables: tuple[str, ...] = ("experiments", "alembic_version")) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        for table in tables:
            connection.execute(f"CREATE TABLE {table} (id INTEGER, text VARCHAR)")
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(n, "x" * 100) for n in range(1000)])
        connection.commit()
    return path.read_bytes()


DATABASES = {
    "text": (lambda content: b"no database" * 100, "is not a valid SQLite database (file is not a database)"),
    "half a header": (lambda content: content[:50], "is not a valid SQLite database"),
    "cut off": (lambda content: content[: len(content) // 2], "is not a valid SQLite database (database disk image"),
    "zeros in the middle": (lambda content: content[:9000] + bytes(20_000) + content[29_000:], "is "),
    "another header": (lambda content: b"X" + content[1:], "is not a valid SQLite database (file is not a database)"),
    "encrypted": (lambda content: bytes(byte ^ 0x5A for byte in content), "is not a valid SQLite database"),
    "another program's": (lambda content: None, "is a database of another program; set tracking.uri to another file"),
    **{kind: (kind, said) for kind, said in NO_FILES.items() if kind != "missing"},
}


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("journals", [False, True])
def test_a_damaged_database_is_refused(
    refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, journals: bool
) -> None:
    damage, message = DATABASES[name]
    path = tmp_path / "mlflow.db"
    if isinstance(damage, str):
        place(path, damage)
    elif name == "another program's":
        database(path, ("bookmarks",))
    else:
        path.write_bytes(damage(database(tmp_path / "sound.db")))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    place(tmp_path / "journals/a.jsonl", b"{}\n")
    said = refused("tracking-store", *(["--journals", tmp_path / "journals"] if journals else []))
    assert said.startswith(str(path)) and message in said


def test_a_sound_database_is_taken(tmp_path: Path) -> None:
    database(tmp_path / "mlflow.db")
    store._check_database(tmp_path / "mlflow.db")
    (tmp_path / "empty.db").touch()
    store._check_database(tmp_path / "empty.db")
    store._check_database(tmp_path / "absent.db")


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.parametrize("read", [read_result, lambda path: read_curve("label", path.parent)])
def test_damaged_results_are_refused(tmp_path: Path, name: str, read) -> None:
    path = place(tmp_path / "outcome.json", DESCRIPTIONS[name])
    try:
        read(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert name in ("no keys", "text for a number", "true for a number")
