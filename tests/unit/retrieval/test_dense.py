"""Bi-encoders, their vectors on disk, and nearest neighbours, compared with transformers and brute force."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from ssmrank.cli import main
from ssmrank.config.encoders import Encoder
from ssmrank.config.retrievers import Candidates, Dense, HnswIndex, IvfPqIndex
from ssmrank.errors import UserError
from ssmrank.io.texts import StoreWriter, TextStore
from ssmrank.io.trec import read_run, write_run
from ssmrank.retrieval import vector_index
from ssmrank.retrieval.dense import score_candidates, search_dense
from ssmrank.retrieval.encoder import BiEncoder
from ssmrank.retrieval.vector_index import build_index, search_exactly, search_index
from ssmrank.retrieval.vectors import Vectors, encode_collection

TEXTS = ["a short text", "another text that is a good deal longer than the first of them", "x", "  spaces around  "]
CPU = torch.device("cpu")
SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).parents[4] / "shared"))


def modules(folder: Path, pooling: str, normalize: bool = True, length: int | None = 12) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    parts = [{"path": f"{n}_{kind}", "type": f"sentence_transformers.models.{kind}"} for n, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    names = ("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_x")
    chosen = {name: name == pooling for name in names}
    (folder / "1_Pooling/config.json").write_text(json.dumps(chosen | {"word_embedding_dimension": 16}))
    if length:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))


@pytest.fixture
def model(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root / "tests/data/workflow/encoder", tmp_path / "model")
    modules(tmp_path / "model", "pooling_mode_mean_tokens")
    return tmp_path / "model"


@torch.no_grad()
def by_transformers(folder: Path, texts: Sequence[str], pooling: str, length: int) -> NDArray[np.float32]:
    """The usual way: each text alone and unpadded, with sentence-transformers' pooling and normalization."""
    reference, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        encoded = tokenizer(text.strip(), truncation=True, max_length=length, return_tensors="pt")
        states = reference(**encoded).last_hidden_state[0]
        row = states[0] if pooling == "cls" else states.mean(dim=0)
        rows.append((row / row.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_those_of_sentence_transformers(model: Path, pooling: str) -> None:
    modules(model, f"pooling_mode_{'cls_token' if pooling == 'cls' else 'mean_tokens'}")
    encoder = BiEncoder(model, Encoder(model="m", query_instruction="find: ", precision="fp32"), CPU)
    assert (encoder.max_length, encoder.normalize) == (12, True)
    np.testing.assert_allclose(encoder.documents(TEXTS), by_transformers(model, TEXTS, pooling, 12), atol=1e-6)
    instructed = by_transformers(model, [f"find: {text}" for text in TEXTS], pooling, 12)
    np.testing.assert_allclose(encoder.queries(TEXTS), instructed, atol=1e-6)


def test_the_settings_win_over_the_model_s_own(model: Path) -> None:
    settings = Encoder(model="m", pooling="first", normalize=False, max_length=8, precision="fp32")
    encoder = BiEncoder(model, settings, CPU)
    vectors = encoder.documents(TEXTS)
    assert not np.allclose(np.linalg.norm(vectors, axis=1), 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, by_transformers(model, TEXTS, "cls", 8), atol=1e-6)


def test_models_that_cannot_be_read_are_refused(model: Path) -> None:
    (model / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(UserError, match=r"modules\.json: module Dense is not supported"):
        BiEncoder(model, Encoder(model="m"), CPU)
    modules(model, "pooling_mode_x")
    with pytest.raises(UserError, match=r"1_Pooling/config\.json: pooling pooling_mode_x is not supported"):
        BiEncoder(model, Encoder(model="m"), CPU)
    modules(model, "pooling_mode_mean_tokens")
    with pytest.raises(UserError, match="max_length 9999: the model accepts at most"):
        BiEncoder(model, Encoder(model="m", pooling="mean", max_length=9999), CPU)
    (model / "modules.json").unlink()
    with pytest.raises(UserError, match=r"no modules\.json that names a pooling; set pooling"):
        BiEncoder(model, Encoder(model="m"), CPU)


class Fake:
    """An encoder with random vectors, seeded by the text; it dies after some calls."""

    def __init__(self, width: int = 24, calls: int = 1000) -> None:
        self.width, self.calls = width, calls

    def documents(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return np.stack([np.random.default_rng(int(text)).normal(size=self.width) for text in texts]).astype(np.float32)


def collection(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    with StoreWriter(folder / "documents.jsonl") as writer:
        for number in range(count):
            writer.add(f"dé{number}", str(number))
    return folder / "documents.jsonl"


def test_a_killed_encoding_goes_on_with_its_finished_shards(tmp_path: Path) -> None:
    documents, output, state = collection(tmp_path / "c", 25), tmp_path / "out", tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        encode_collection(Fake(calls=2), documents, output, state, 10, "x")
    assert not output.exists() and len(list(state.glob("vectors-*.npy"))) == 2
    encode_collection(Fake(calls=1), documents, output, state, 10, "x")
    vectors = Vectors(output)
    assert [first for first, _ in vectors.shards()] == [0, 10, 20]
    whole = np.concatenate([shard for _, shard in vectors.shards()])
    np.testing.assert_array_equal(whole, Fake().documents([str(n) for n in range(25)]).astype(np.float16))
    assert vectors.ids[24].decode() == "dé24" and not state.exists()


def test_shards_of_another_model_are_not_taken(tmp_path: Path) -> None:
    documents, state = collection(tmp_path / "c", 25), tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        encode_collection(Fake(calls=2), documents, tmp_path / "out", state, 10, "x")
    with pytest.raises(KeyboardInterrupt):
        encode_collection(Fake(calls=2), documents, tmp_path / "out", state, 10, "y")
    assert len(list(state.glob("vectors-*.npy"))) == 2


@pytest.mark.parametrize("left", [None, b"", b"\xff"])
def test_shards_that_no_fingerprint_names_are_not_taken(tmp_path: Path, left: bytes | None) -> None:
    """A kill during the removal of a state leaves shards without their encoding.json."""
    documents, output, state = collection(tmp_path / "c", 25), tmp_path / "out", tmp_path / "state"
    state.mkdir()
    np.save(state / "vectors-00000.npy", np.zeros((10, 24), dtype=np.float16))
    if left is not None:
        (state / "encoding.json").write_bytes(left)
    encode_collection(Fake(), documents, output, state, 10, "x")
    [first, *_] = [shard for _, shard in Vectors(output).shards()]
    np.testing.assert_array_equal(first, Fake().documents([str(n) for n in range(10)]).astype(np.float16))


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    class Large(Fake):
        def documents(self, texts: Sequence[str], /) -> NDArray[np.float32]:
            return super().documents(texts) * 1e6

    with pytest.raises(UserError, match="the vector of document dé0 does not fit float16"):
        encode_collection(Large(), collection(tmp_path / "c", 3), tmp_path / "out", tmp_path / "state", 10, "x")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    folder = tmp_path_factory.mktemp("stored")
    encode_collection(Fake(), collection(folder / "c", 1500), folder / "out", folder / "state", 400, "x")
    return Vectors(folder / "out")


def brute_force(stored: Vectors, queries: NDArray[np.float32], depth: int) -> tuple[NDArray, NDArray]:
    whole = np.concatenate([shard for _, shard in stored.shards()]).astype(np.float64)
    products = queries.astype(np.float64) @ whole.T
    rows = np.argsort(-products, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(products, rows, axis=1), rows


@pytest.mark.parametrize("search", ["_on_cpu", "_on_gpu"])
def test_exact_search_over_shards_is_brute_force(stored: Vectors, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The GPU's search is matrix products, which run on any torch device.
    monkeypatch.setattr(vector_index, "_on_cpu", getattr(vector_index, search))
    queries = np.random.default_rng(5).normal(size=(7, 24)).astype(np.float32)
    for depth in (1, 50, 450):
        scores, rows = search_exactly(queries, stored, depth, CPU)
        expected, places = brute_force(stored, queries, depth)
        np.testing.assert_array_equal(rows, places)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    scores, rows = search_exactly(queries, stored, 5000, CPU)
    assert rows.shape == (7, 1500)


class Words:
    """Unit vectors, each the sum of its words' vectors, so that texts with nearly the same words are close."""

    width = 64

    def documents(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        sums = np.zeros((len(texts), self.width))
        for row, text in enumerate(texts):
            for word in text.split():
                sums[row] += np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.width)
        return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def words_of(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in random.zipf(1.3, 30) % 500) for _ in range(count)]


def cranfield(name: str, field: str = "text") -> list[str]:
    path = SHARED / "collections/cranfield" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return [json.loads(line)[field] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("real", [False, True], ids=["drawn", "cranfield"])
def test_kept_in_float32_the_first_ten_are_those_of_float64(tmp_path: Path, real: bool) -> None:
    texts = cranfield("corpus.jsonl") if real else words_of(600, 0)
    queries = Words().documents(cranfield("queries.jsonl") if real else words_of(40, 1))
    exact = queries.astype(np.float64) @ Words().documents(texts).astype(np.float64).T
    best = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    with StoreWriter(tmp_path / "documents.jsonl") as writer:
        for number, text in enumerate(texts):
            writer.add(str(number), text)
    for kept in ("float32", "float16"):
        arguments = (Words(), tmp_path / "documents.jsonl", tmp_path / kept, tmp_path / "state", 500, kept, kept)
        encode_collection(*arguments)  # type: ignore[arg-type]
        scores, rows = search_exactly(queries, Vectors(tmp_path / kept), 10, CPU)
        error = np.abs(scores - np.take_along_axis(exact, rows, axis=1)).max()
        if kept == "float32":
            assert rows.tolist() == best.tolist() and error < 1e-6
        else:
            assert 1e-5 < error < 1e-3


def test_equal_products_come_in_the_collection_s_order(tmp_path: Path) -> None:
    class Same(Fake):
        def documents(self, texts: Sequence[str], /) -> NDArray[np.float32]:
            return np.ones((len(texts), 4), dtype=np.float32)

    encode_collection(Same(4), collection(tmp_path / "c", 30), tmp_path / "out", tmp_path / "state", 10, "x")
    _, rows = search_exactly(np.ones((1, 4), dtype=np.float32), Vectors(tmp_path / "out"), 30, CPU)
    assert rows[0].tolist() == list(range(30))


def test_approximate_indexes_find_most_neighbours(stored: Vectors, tmp_path: Path) -> None:
    queries = np.random.default_rng(6).normal(size=(40, 24)).astype(np.float32)
    _, exact = brute_force(stored, queries, 10)

    def recall(settings: HnswIndex | IvfPqIndex) -> float:
        build_index(settings, stored, tmp_path / settings.kind, threads=2)
        _, rows = search_index(tmp_path / settings.kind, settings, queries, 10, threads=2)
        return float(np.mean([len({*own} & {*best}) / 10 for own, best in zip(rows, exact, strict=True)]))

    assert recall(HnswIndex(kind="hnsw")) > 0.98
    assert recall(IvfPqIndex(kind="ivfpq", lists=16, probes=16, bytes=12)) > 0.6
    with pytest.raises(UserError, match=r"index\.bytes 7 does not divide the vectors' width 24"):
        build_index(IvfPqIndex(kind="ivfpq", bytes=7), stored, tmp_path / "no", threads=1)
    with pytest.raises(UserError, match="need 4096 vectors, but there are 1500; lower lists, or choose kind: flat"):
        build_index(IvfPqIndex(kind="ivfpq", bytes=8), stored, tmp_path / "no", threads=1)
    with pytest.raises(UserError, match="has no complete index"):
        search_index(tmp_path, HnswIndex(kind="hnsw"), queries, 10, threads=1)


def test_candidates_are_scored_alone(model: Path, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "documents.jsonl") as writer:
        for number, text in enumerate(TEXTS):
            writer.add(f"d{number}", text)
    write_run(tmp_path / "first.trec", {"q1": [("d0", 3.0), ("d1", 2.0), ("d2", 1.0)], "q2": [("d3", 1.0)]}, "t")
    settings = Dense(kind="dense", encoder="e", label="E", candidates=Candidates(retriever="bm25", depth=2))
    encoder = BiEncoder(model, Encoder(model="m", precision="fp32"), CPU)
    documents = TextStore(tmp_path / "documents.jsonl")
    found = dict(score_candidates(settings, encoder, {"q1": TEXTS[1]}, documents, tmp_path / "first.trec"))
    vectors = by_transformers(model, TEXTS, "mean", 12)
    assert [document for document, _ in found["q1"]] == ["d1", "d0"] and list(found) == ["q1"]
    assert [score for _, score in found["q1"]] == pytest.approx([1.0, float(vectors[0] @ vectors[1])], abs=1e-5)


def test_vectors_of_another_width_are_refused(model: Path, stored: Vectors) -> None:
    encoder = BiEncoder(model, Encoder(model="m"), CPU)
    settings = Dense(kind="dense", encoder="e", label="E")
    with pytest.raises(UserError, match="has vectors of width 24, but the model's have 16; encode again"):
        next(iter(search_dense(settings, encoder, {"q": "x"}, stored.folder, None, 1)))


def test_the_commands_from_documents_to_a_run(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "collection"
    (folder / "splits/test").mkdir(parents=True)
    with StoreWriter(folder / "documents.jsonl") as writer:
        for number, text in enumerate(TEXTS):
            writer.add(f"d{number}", text)
    lines = [{"id": "d1", "text": TEXTS[1]}, {"id": "q2", "text": TEXTS[0]}]
    (folder / "splits/test/queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoder = Encoder(model="m", precision="fp32", shard_documents=3).model_dump_json()
    vectors, run = str(tmp_path / "vectors"), str(tmp_path / "run.trec")
    common = ["--model", str(model), "--collection", str(folder)]
    words = [
        "index",
        "vectors",
        "--settings",
        encoder,
        *common,
        "--state",
        str(tmp_path / "state"),
        "--output",
        vectors,
    ]
    assert main(words) == 0
    settings = Dense(kind="dense", encoder="e", label="My encoder", depth=2).model_dump_json()
    words = ["retrieve", "dense", "--settings", settings, "--encoder", encoder, *common, "--split", "test"]
    assert main([*words, "--vectors", vectors, "--leave-out-own-document", "--output", run]) == 0
    found = read_run(run)
    assert len(found["d1"]) == 2 and "d1" not in dict(found["d1"])
    assert found["q2"][0] == ("d0", pytest.approx(1.0, abs=1e-3))
    assert Path(run).read_text().splitlines()[0].endswith(" My-encoder")
    capsys.readouterr()
    assert main([*words, "--output", run]) == 2
    assert "the settings require the option --vectors" in capsys.readouterr().err
