from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from tiny_training import DOCUMENTS, QUERIES

from ssmrank.cli import main
from ssmrank.config.trainings import Validation
from ssmrank.errors import UserError
from ssmrank.evaluation.metrics import mean_metric
from ssmrank.models.reranker import load_reranker, new_reranker
from ssmrank.training.parallel import Workers
from ssmrank.training.validation import RerankedMetric, choose_queries

RUN = {query: [(document, 1.0) for document in DOCUMENTS] for query in QUERIES}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d3": 1, "d4": 0}}
SECTION = {"split": "train", "retriever": "bm25", "depth": 4, "every_steps": 2}


@pytest.mark.parametrize("token_budget", [1, 1000])
def test_the_metric_is_that_of_the_models_ranking(tiny_model, token_budget):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model("opt"), "D", 32).eval()
    reciprocal = []
    for query, judged in QRELS.items():
        scores = dict(zip(DOCUMENTS, reranker.score(QUERIES[query], list(DOCUMENTS.values())), strict=True))
        relevant = next(document for document, grade in judged.items() if grade)
        reciprocal.append(1 / (1 + sum(score > scores[relevant] for score in scores.values())))
    assert len(set(reciprocal)) > 1
    settings = Validation(**SECTION)
    mean = partial(mean_metric, metric=settings.metric)
    metric = RerankedMetric(settings, mean, RUN, QRELS, QUERIES, DOCUMENTS, reranker.template, 32, token_budget, "fp32")
    before = torch.get_rng_state()
    assert metric(reranker.train(), Workers()) == pytest.approx(sum(reciprocal) / 3)
    assert reranker.training
    assert torch.equal(before, torch.get_rng_state())


def test_queries_are_drawn_by_seed_and_a_missing_one_counts_as_zero():
    qrels = {f"q{number}": {"d1": int(number != 3)} for number in range(10)}
    run = {f"q{number}": [("d1", 2.0), ("d2", 1.0)] for number in range(10) if number != 5}
    chosen, judged = choose_queries(run, qrels, Validation(**SECTION | {"depth": 1}), 0)
    assert "q3" not in judged and "q5" in judged and "q5" not in chosen
    assert chosen["q1"] == [("d1", 2.0)]
    few = Validation(**SECTION | {"queries": 4})
    draws = [choose_queries(run, qrels, few, seed)[1] for seed in (0, 0, 1)]
    assert len(draws[0]) == 4
    assert draws[0] == draws[1] != draws[2]
    with pytest.raises(UserError, match="the run has none of the qrels' queries"):
        choose_queries({"x": []}, qrels, few, 0)


def test_train_needs_run_and_qrels(options, capsys):
    assert main(options(validation=SECTION)) == 2
    assert "validation needs the options --validation-run and --validation-qrels" in capsys.readouterr().err


def test_the_best_weights_are_written(options, tmp_path, monkeypatch):
    held_out = ["--validation-run", str(tmp_path / "dev.trec"), "--validation-qrels", str(tmp_path / "dev.txt")]
    values, weights = iter([0.3, 0.6, 0.6, 0.5, 0.9]), []

    def measured(self, reranker, workers):
        weights.append({name: tensor.clone() for name, tensor in reranker.state_dict().items()})
        return next(values)

    monkeypatch.setattr(RerankedMetric, "__call__", measured)
    assert main([*options(epochs=12, validation=SECTION | {"patience": 2}), *held_out, "--save-seconds", "0"]) == 0
    outcome = json.loads((tmp_path / "output" / "outcome.json").read_text())
    assert outcome["validation"] == [[2, 0.3], [4, 0.6], [6, 0.6], [8, 0.5]]
    assert (outcome["best_step"], outcome["steps"]) == (4, 8)
    written = load_reranker(tmp_path / "output").state_dict()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in written.items())
    assert not torch.equal(written["head.weight"], weights[3]["head.weight"])
