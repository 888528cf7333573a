"""A server process on loopback: what it answers in each form, compared with the Python API."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from http_client import ServerProcess
from ssmrank.api import Reranker
from ssmrank.serving.app import sigmoid as sigmoid_of

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
def scores(reranker: Reranker) -> list[float]:
    return reranker.score(QUERY, TEXTS)


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


def test_equal_texts_have_equal_scores_and_keep_their_order(server: ServerProcess) -> None:
    ranks = server.post("/rerank", {"query": QUERY, "texts": ["snow", "river", "snow"]}).body
    assert len({rank["score"] for rank in ranks}) == 2
    assert [rank["index"] for rank in ranks if rank["index"] != 1] == [0, 2]


def test_saturated_scores_keep_the_order_of_the_models_own(server: ServerProcess) -> None:
    asked = {"query": QUERY, "texts": TEXTS}
    raw = [rank["index"] for rank in server.post("/rerank", asked | {"raw_scores": True}).body]
    assert [rank["index"] for rank in server.post("/rerank", asked).body] == raw
    assert sigmoid_of(1000.0) == 1 and sigmoid_of(-1000.0) == 0
    assert sigmoid_of(-40.0) == pytest.approx(math.exp(-40), rel=1e-9)


def test_a_long_text_is_cut_or_refused(server: ServerProcess, reranker: Reranker) -> None:
    middle = " The gills of a fish take up oxygen. "
    text = "The committee spoke of the roof. " * 30 + middle
    asked = {"query": QUERY, "texts": ["snow", text], "raw_scores": True}
    refused = server.post("/rerank", asked | {"truncate": False})
    longest = reranker.settings.max_length
    assert refused.status == 422
    assert refused.body["error_type"] == "Validation"
    assert (
        refused.body["error"].startswith("texts[1]: ")
        and f" tokens or more with the query, but the model reads {longest};" in refused.body["error"]
    )
    right, left = (
        {rank["index"]: rank["score"] for rank in server.post("/rerank", asked | {"truncation_direction": side}).body}
        for side in ("Right", "left")
    )
    assert right[1] == pytest.approx(reranker.score(QUERY, [text])[0], abs=NOISE)
    assert left[0] == pytest.approx(right[0], abs=NOISE)
    # What is left of the text is an end of it that fills the model's longest input.
    [asked_tokens] = reranker.model.template.tokenize_queries([QUERY])
    room = reranker.model.template.room(len(asked_tokens), longest)
    ends = [text[start:] for start in range(len(text))]
    sizes = map(len, reranker.model.template.tokenize_documents(ends))
    filling = [end for end, size in zip(ends, sizes, strict=True) if size == room]
    assert min(abs(score - left[1]) for score in reranker.score(QUERY, filling)) < NOISE
    assert abs(left[1] - right[1]) > 10 * NOISE


def test_of_a_very_long_text_the_model_reads_the_same(server: ServerProcess, reranker: Reranker) -> None:
    texts = ["Gills take up oxygen. " * 20_000, " " * 100_000 + "Gills take up oxygen.", "a" * 300_000]
    ranks = server.post("/rerank", {"query": QUERY, "texts": texts, "raw_scores": True}).body
    scores = [score for _, score in sorted((rank["index"], rank["score"]) for rank in ranks)]
    assert scores == pytest.approx(reranker.score(QUERY, texts), abs=NOISE)
    asked = {"query": QUERY, "truncation_direction": "Left", "raw_scores": True}
    whole, end = (server.post("/rerank", asked | {"texts": [text]}).body for text in (texts[0], texts[0][-9000:]))
    assert whole[0]["score"] == pytest.approx(end[0]["score"], abs=NOISE)


def test_a_long_query_is_cut_or_refused(server: ServerProcess, reranker: Reranker) -> None:
    for query in ("how do fish breathe in cold water " * 20, "how do fish breathe " * 20_000, " " * 100_000 + "fish"):
        ranks = server.post("/rerank", {"query": query, "texts": TEXTS[:3], "raw_scores": True}).body
        scores = [score for _, score in sorted((rank["index"], rank["score"]) for rank in ranks)]
        assert scores == pytest.approx(reranker.score(query, TEXTS[:3]), abs=NOISE)
    refused = server.post("/rerank", {"query": "how do fish breathe " * 60, "texts": TEXTS, "truncate": False})
    assert refused.status == 422
    assert refused.body["error"].startswith("query: its ") and refused.body["error"].endswith("or allow truncation")


def test_tokens_are_those_of_the_sequences_that_the_model_reads(server: ServerProcess, reranker: Reranker) -> None:
    template, longest = reranker.model.template, reranker.settings.max_length
    [query] = template.tokenize_queries([QUERY])
    whole = [template.join(query, side, longest) for side in template.tokenize_documents(TEXTS)]
    usage = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS}).body["usage"]
    assert usage == {"prompt_tokens": sum(map(len, whole)), "total_tokens": sum(map(len, whole))}


def test_a_document_is_computed_once(server: ServerProcess, reranker: Reranker) -> None:
    """Another user's query finds the document's state, and its score is that of the whole sequence."""
    documents = ["Otters sleep on the river.", "Moss grows on stones.", "Bees build combs.", *TEXTS]
    asked = {"documents": [*documents[:2], *TEXTS], "use_activation": False}
    first = server.post("/v1/rerank", asked | {"query": "animals that sleep"})
    assert {result["cached"] for result in first.body["results"] if result["index"] < 2} == {False}
    asked["documents"] = documents
    second = server.post("/v2/rerank", asked | {"query": "plants on a stone"})
    found = {result["index"]: result for result in second.body["results"]}
    assert [found[place]["cached"] for place in range(3)] == [True, True, False]
    assert second.headers["x-cached-documents"] == str(len(documents) - 1)
    assert server.line_of(second)["cached"] == len(documents) - 1
    scores = [found[place]["relevance_score"] for place in range(len(documents))]
    assert scores == pytest.approx(reranker.score("plants on a stone", documents), abs=NOISE)
    metrics = server.get("/metrics").raw.decode()
    assert "ssmrank_document_states_found_total" in metrics and "ssmrank_document_states_bytes" in metrics


def test_only_the_served_model_is_known(server: ServerProcess) -> None:
    reply = server.post("/v2/rerank", {"model": "../other", "query": QUERY, "documents": TEXTS})
    assert reply.status == 404
    assert reply.body["message"] == "model: this server has mamba2 alone; send this name or none"
    assert reply.body["error"]["code"] == 404


def test_info_has_the_names_of_text_embeddings_inference(server: ServerProcess, reranker: Reranker) -> None:
    info = server.get("/info").body
    assert info["model_id"] == info["served_model_name"] == "mamba2"
    assert info["model_dtype"] == "float32"
    assert "reranker" in info["model_type"]
    assert info["max_input_length"] == reranker.settings.max_length
    assert info["max_client_batch_size"] == 1000


def test_health(server: ServerProcess) -> None:
    assert server.get("/health").status == server.send("HEAD", "/health").status == 200


def test_pages_load_nothing_from_elsewhere(server: ServerProcess) -> None:
    described = server.get("/openapi.json").body
    assert set(described["paths"]) == {"/rerank", "/v1/rerank", "/v2/rerank", "/health", "/info", "/metrics"}
    page = server.get("/docs")
    assert page.status == 200
    text = page.raw.decode()
    assert all(path in text for path in described["paths"])
    assert "<script" not in text and "//" not in text and "openapi.json" in text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_metrics_count_requests_and_pairs(server: ServerProcess) -> None:
    def counted() -> dict[str, float]:
        lines = server.get("/metrics").raw.decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = counted()
    server.post("/rerank", {"query": QUERY, "texts": TEXTS})
    after = counted()
    pairs = sum(after[name] - before[name] for name in after if name.startswith("ssmrank_pairs_total"))
    answered = 'ssmrank_requests_total{route="/rerank",status="200"}'
    assert pairs == len(TEXTS)
    assert after[answered] - before.get(answered, 0) == 1
    assert after["ssmrank_requests_waiting"] == after["ssmrank_pairs_waiting"] == 0


def test_a_line_for_each_request_without_its_text(server: ServerProcess) -> None:
    word = "zanzibar"
    reply = server.post("/rerank", {"query": word, "texts": [word, "snow"]}, {"X-Request-Id": word})
    found = server.line_of(reply)
    assert (found["route"], found["status"], found["documents"], found["method"]) == ("/rerank", 200, 2, "POST")
    assert found["tokens"] > 0 and found["cached"] >= 0 and found["total_ms"] >= found["compute_ms"]
    others = [
        server.post(f"/{word}?{word}", {word: word}),
        server.post("/rerank", {"query": word, "texts": [1]}),
        server.post("/rerank", word.encode()),
        server.send("ZANZIBAR", "/rerank"),
    ]
    assert [(line["status"], line["problem"]) for line in map(server.line_of, others)] == [
        (404, "not_found"),
        (422, "value"),
        (400, "syntax"),
        (405, "method"),
    ]
    assert word not in str(server.lines).lower() and word not in server.said
