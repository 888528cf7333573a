"""A server process on loopback: what it answers in each form, compared with the Python API."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from http_client import ServerProcess, serving
from ssmrank.api import Reranker

QUERY = "how do fish breathe"
TEXTS = [
    "Snow falls on the mountain in winter.",
    "Gills take up oxygen from the water.",
    "A search engine ranks documents for a query.",
    "State space models scan a sequence once. " * 30,
    "",
]
NOISE = 1e-4
"""How far scores of a pair may be apart that runs beside other pairs, in float32."""


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "models/minis/mamba2"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with serving(folder, "--precision", "fp32", "--device", "cpu") as server:
        yield server


@pytest.fixture(scope="module")
def scores(folder: Path) -> list[float]:
    return Reranker.from_pretrained(folder, device="cpu", precision="fp32").score(QUERY, TEXTS)


@pytest.fixture(scope="module")
def order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def test_text_embeddings_inference(server: ServerProcess, scores: list[float], order: list[int]) -> None:
    reply = server.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert [set(rank) for rank in reply.body] == [{"index", "score"}] * len(TEXTS)
    assert [rank["index"] for rank in reply.body] == order
    assert [rank["score"] for rank in reply.body] == pytest.approx([scores[place] for place in order], abs=NOISE)
    ranks = server.post("/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True}).body
    assert [rank["text"] for rank in ranks] == [TEXTS[place] for place in order]
    assert [rank["score"] for rank in ranks] == pytest.approx([sigmoid(scores[place]) for place in order], abs=NOISE)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_cohere_and_jina(server: ServerProcess, scores: list[float], order: list[int], path: str) -> None:
    documents = [TEXTS[0], *({"text": text, "title": "kept by the client"} for text in TEXTS[1:])]
    found = server.post(path, {"model": "mamba2", "query": QUERY, "documents": documents, "top_n": 2}).body
    assert found["model"] == "mamba2"
    assert [result["index"] for result in found["results"]] == order[:2]
    shown = [sigmoid(scores[place]) for place in order[:2]]
    assert [result["relevance_score"] for result in found["results"]] == pytest.approx(shown, abs=NOISE)
    assert ("document" in found["results"][0]) == (path == "/v1/rerank")
    asked = {"query": QUERY, "documents": TEXTS, "return_documents": True, "use_activation": False}
    every = server.post(path, asked).body["results"]
    assert [result["document"]["text"] for result in every] == [TEXTS[place] for place in order]
    raw = [result["relevance_score"] for result in every]
    assert raw == pytest.approx([scores[place] for place in order], abs=NOISE)
