"""Clients of other libraries, pointed at the server. Each test is skipped where its library is not installed."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from http_client import ServerProcess
from ssmrank.api import Reranker

QUERY = "how do fish breathe"
TEXTS = ["Snow falls on the mountain.", "Gills take up oxygen from the water.", "A search engine ranks documents."]


@pytest.fixture(scope="module")
def order(reranker: Reranker) -> list[int]:
    return [place.index for place in reranker.rank(QUERY, TEXTS)]


@pytest.fixture
def cohere() -> Any:
    return pytest.importorskip("cohere")


def test_cohere_v2(cohere: Any, server: ServerProcess, order: list[int]) -> None:
    client = cohere.ClientV2("a key", base_url=server.url)
    found = client.rerank(model="mamba2", query=QUERY, documents=TEXTS, top_n=2)
    assert [result.index for result in found.results] == order[:2]
    assert all(0 < result.relevance_score < 1 for result in found.results)
    assert found.id and found.meta.billed_units.search_units == 1
    with pytest.raises(cohere.NotFoundError, match="this server has mamba2 alone"):
        client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS)
    with pytest.raises(cohere.BadRequestError, match="documents: is empty"):
        client.rerank(model="mamba2", query=QUERY, documents=[])


def test_cohere_v1(cohere: Any, server: ServerProcess, order: list[int]) -> None:
    client = cohere.Client("a key", base_url=server.url)
    found = client.rerank(model="mamba2", query=QUERY, documents=[{"text": text} for text in TEXTS])
    assert [result.index for result in found.results] == order
    assert [result.document.text for result in found.results] == [TEXTS[place] for place in order]


def test_langchain_cohere(server: ServerProcess, order: list[int]) -> None:
    langchain = pytest.importorskip("langchain_cohere")
    from langchain_core.documents import Document

    reranker = langchain.CohereRerank(model="mamba2", cohere_api_key="a key", base_url=server.url, top_n=2)
    found = reranker.compress_documents([Document(page_content=text) for text in TEXTS], QUERY)
    assert [document.page_content for document in found] == [TEXTS[place] for place in order[:2]]
    assert found[0].metadata["relevance_score"] > found[1].metadata["relevance_score"]


def test_llama_index_tei(server: ServerProcess, order: list[int]) -> None:
    tei = pytest.importorskip("llama_index.postprocessor.tei_rerank")
    from llama_index.core.schema import NodeWithScore, TextNode

    reranker = tei.TextEmbeddingInference(base_url=server.url, model_name="mamba2", top_n=2)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.get_content() for node in found] == [TEXTS[place] for place in order[:2]]


def test_a_client_without_a_library(server: ServerProcess, order: list[int]) -> None:
    """The request of Text Embeddings Inference's documentation."""
    body = json.dumps({"query": QUERY, "texts": TEXTS}).encode()
    request = urllib.request.Request(f"{server.url}/rerank", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert [rank["index"] for rank in json.load(reply)] == order
