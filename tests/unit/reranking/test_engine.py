from __future__ import annotations

import pytest
import torch

from ssmrank.errors import UserError
from ssmrank.models.reranker import new_reranker
from ssmrank.reranking.engine import rerank

CPU = torch.device("cpu")
QUERIES = {"q1": "mamba", "q2": "river boat", "q3": "nothing found"}
DOCUMENTS = {"d1": "mamba state space models", "d2": "river boat fish", "d3": "search engine lucene index " * 5}
RUN = {"q1": [("d3", 3.0), ("d1", 2.0), ("d2", 1.0)], "q2": [("d2", 9.0), ("d1", 8.0)], "q3": []}


@pytest.mark.parametrize(
    ("model_type", "kind"), [("bert", "E"), ("opt", "D"), ("llama", "D"), ("mamba", "D"), ("mamba2", "D")]
)
@pytest.mark.parametrize("token_budget", [1, 40, 10000])
def test_scores_are_those_of_each_pair_alone(tiny_model, model_type, kind, token_budget):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model(model_type), kind, 24).eval()
    reranked = rerank(reranker, RUN, QUERIES, DOCUMENTS, 2, token_budget, "fp32", CPU)
    assert list(reranked) == ["q1", "q2", "q3"]
    for query, ranking in reranked.items():
        assert [document for document, _ in ranking] == [document for document, _ in RUN[query][:2]]
        for document, score in ranking:
            assert score == pytest.approx(reranker.score(QUERIES[query], [DOCUMENTS[document]])[0], abs=1e-5)


def test_a_run_of_another_split_is_named(tiny_model):
    reranker = new_reranker(tiny_model("bert"), "E", 24)
    with pytest.raises(UserError, match="query q8: in the run, unknown to the collection's split"):
        rerank(reranker, {"q8": [("d1", 1.0)]}, QUERIES, DOCUMENTS, 2, 100, "fp32", CPU)
