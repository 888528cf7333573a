from __future__ import annotations

import math
import os
import random
from pathlib import Path

import ir_measures
import pytest
import pytrec_eval

from ssmrank.config.evaluation import Evaluation
from ssmrank.config.metrics import ALIASES, MEASURES, parse_metric
from ssmrank.config.reading import check
from ssmrank.errors import UserError
from ssmrank.evaluation import metrics as module
from ssmrank.evaluation.metrics import evaluate
from ssmrank.io.trec import Qrels, iterate_run, read_run, strictly_decreasing, write_run

NAMES = ["nDCG@10", "nDCG", "MRR@10", "MRR@100", "MRR", "MAP", "MAP@10", "P@5", "Recall@100", "R@10"]
SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).parents[4] / "shared"))


Rankings = dict[str, list[tuple[str, float]]]


def by_trec_eval(qrels: Qrels, run: Rankings, names: list[str]) -> dict[str, dict[str, float]]:
    """trec_eval's per-query values under our names; for reciprocal rank with a cutoff, the ranking is cut first."""
    measures = {
        "nDCG@10": "ndcg_cut_10",
        "nDCG": "ndcg",
        "MRR": "recip_rank",
        "MAP": "map",
        "MAP@10": "map_cut_10",
        "P@5": "P_5",
        "Recall@100": "recall_100",
        "R@10": "recall_10",
    }
    evaluator = pytrec_eval.RelevanceEvaluator(
        qrels, {"ndcg_cut", "ndcg", "recip_rank", "map", "map_cut", "P", "recall"}
    )
    found = evaluator.evaluate({query: dict(ranking) for query, ranking in run.items()})
    values: dict[str, dict[str, float]] = {}
    for name in names:
        values[name] = {}
        for query in qrels:
            if query not in found:
                values[name][query] = 0.0
            elif name.startswith("MRR@"):
                reciprocal = found[query]["recip_rank"]
                cutoff = int(name.removeprefix("MRR@"))
                values[name][query] = reciprocal if reciprocal and 1 / reciprocal < cutoff + 0.5 else 0.0
            else:
                values[name][query] = found[query][measures[name]]
    return values


def assert_agrees(qrels: Qrels, run: Rankings) -> None:
    scores = evaluate(qrels, run, NAMES)
    expected = by_trec_eval(qrels, run, NAMES)
    for name in NAMES:
        for query in qrels:
            assert scores.per_query[name][query] == pytest.approx(expected[name][query], abs=1e-6), (name, query)
        # trec_eval -c: the sum over the queries in both, divided by the number of queries in the qrels.
        mean = sum(expected[name].values()) / len(qrels)
        assert scores.mean()[name] == pytest.approx(mean, abs=1e-6)


def test_hand_worked_values() -> None:
    qrels = {"q1": {"a": 3, "b": 1, "c": 0, "d": -3}, "q2": {"a": 1}}
    run = {"q1": [("d", 9.0), ("b", 8.0), ("x", 7.0), ("a", 6.0)]}
    scores = evaluate(qrels, run, ["nDCG@10", "nDCG@2", "MRR@10", "MRR@1", "MAP", "P@5", "Recall@3"])
    q1 = {name: values["q1"] for name, values in scores.per_query.items()}
    ideal = 3 + 1 / math.log2(3)
    assert q1["nDCG@10"] == pytest.approx((1 / math.log2(3) + 3 / math.log2(5)) / ideal)
    assert q1["nDCG@2"] == pytest.approx((1 / math.log2(3)) / ideal)
    assert q1["MRR@10"] == pytest.approx(1 / 2)
    assert q1["MRR@1"] == 0
    assert q1["MAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert q1["P@5"] == pytest.approx(2 / 5)
    assert q1["Recall@3"] == pytest.approx(1 / 2)
    assert {values["q2"] for values in scores.per_query.values()} == {0.0}
    assert scores.queries_without_results == 1


def test_the_least_grade_that_is_relevant_is_trec_evals_l() -> None:
    random.seed(3)
    documents = [f"d{number}" for number in range(40)]
    qrels = {f"q{q}": {d: random.choice([-1, 0, 1, 2, 3]) for d in random.sample(documents, 25)} for q in range(20)}
    run = {query: [(d, random.random()) for d in random.sample(documents, 30)] for query in qrels}
    names = {"Recall(rel=2)@10": "recall_10", "MAP(rel=2)": "map", "MRR(rel=2)": "recip_rank", "P(rel=2)@5": "P_5"}
    found = evaluate(qrels, run, [*names, "nDCG@10", "Recall@10"])
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"recall", "map", "recip_rank", "P"}, relevance_level=2)
    expected = evaluator.evaluate({query: dict(ranking) for query, ranking in run.items()})
    for name, own in names.items():
        for query in qrels:
            assert found.per_query[name][query] == pytest.approx(expected[query][own], abs=1e-6), (name, query)
    assert_agrees(qrels, run)


def test_agrees_with_trec_eval_on_random_runs_with_ties_grades_and_gaps() -> None:
    generator = random.Random(7)
    documents = [f"d{number}" for number in range(60)]
    qrels = {
        f"q{number}": {
            # pytrec_eval writes out of bounds for grades below -1.
            document: generator.choice([-1, -1, 0, 0, 1, 1, 2, 3, 4])
            for document in generator.sample(documents, generator.randint(1, 30))
        }
        for number in range(80)
    }
    run = {
        f"q{number}": [
            (document, generator.choice([0.5, 1.0, 1.5, 2.0, 2.5, -1.0]))
            for document in generator.sample(documents, generator.randint(1, 60))
        ]
        for number in range(90)
        if number % 7
    }
    assert_agrees(qrels, run)


def test_agrees_with_trec_eval_on_scores_that_differ_beyond_single_precision() -> None:
    qrels = {"q": {"b": 1}}
    assert_agrees(qrels, {"q": [("a", 1.0), ("b", 1.0 + 1e-12)]})
    assert_agrees(qrels, {"q": [("c", 1.0), ("b", 1.0 + 1e-12)]})
    assert_agrees(qrels, {"q": [("c", 16777216.0), ("b", 16777217.0)]})


def test_ties_do_not_depend_on_the_order_of_lines() -> None:
    qrels = {"q": {"a": 1}}
    for ranking in ([("a", 1.0), ("b", 1.0)], [("b", 1.0), ("a", 1.0)]):
        assert evaluate(qrels, {"q": ranking}, ["MRR@10"]).mean()["MRR@10"] == pytest.approx(1 / 2)
        assert_agrees(qrels, {"q": ranking})


def test_agrees_with_trec_eval_where_nothing_is_relevant() -> None:
    assert_agrees({"q1": {"a": 0, "b": -1}, "q2": {"a": 1}}, {"q1": [("a", 1.0)], "q2": [("a", 1.0)]})


def test_a_run_without_results_is_zero() -> None:
    scores = evaluate({"q1": {"a": 1}, "q2": {"b": 2}}, {}, NAMES)
    assert set(scores.mean().values()) == {0.0}
    assert scores.queries_without_results == 2


def test_each_measure_is_one_of_ir_measures_that_the_installed_packages_compute() -> None:
    qrels, run = {"q": {"a": 2, "b": 1}}, {"q": [("c", 2.0), ("a", 1.0)]}
    for measure, (cutoff, parameters) in MEASURES.items():
        given = {"rel": "2", "p": "0.5", "judged_only": "True"}
        written = f"({', '.join(f'{key}={given[key]}' for key in parameters)})" if parameters else ""
        for name in [measure + written] * (cutoff != "required") + [f"{measure}{written}@5"] * (cutoff != "none"):
            assert 0 <= evaluate(qrels, run, [name]).mean()[name] <= 1, name
    registry = ir_measures.measures.registry
    assert all(registry[alias] is registry[measure] for alias, measure in ALIASES.items())


def test_names_of_ir_measures_and_our_older_ones_are_the_same_metrics() -> None:
    random.seed(5)
    qrels = {f"q{q}": {f"d{d}": random.choice([-1, 0, 1, 2]) for d in range(0, 30, 2)} for q in range(12)}
    run = {query: [(f"d{d}", random.random()) for d in range(30)] for query in qrels}
    pairs = {"MRR@10": "RR@10", "MAP": "AP", "Recall(rel=2)@9": "R(rel=2)@9", "MRR(rel=2)@10": "RR(rel=2)@10"}
    scores = evaluate(qrels, run, [*pairs, *pairs.values()])
    for old, new in pairs.items():
        assert scores.per_query[old] == scores.per_query[new] and parse_metric(old) == parse_metric(new)
    assert list(scores.per_query) == [*pairs, *pairs.values()], "values stand under the names that were given"


def test_measures_that_trec_eval_lacks_by_hand() -> None:
    qrels = {"q": {"a": 2, "b": 1, "c": 0}, "nothing": {"a": 1}}
    run = {"q": [("x", 4.0), ("b", 3.0), ("c", 2.0), ("a", 1.0)]}
    names = ["RBP(p=0.8)", "RBP(p=0.5,rel=2)", "Success@1", "Success@2", "Judged@4", "RR(rel=2)@3", "RR(rel=2)@10"]
    found = evaluate(qrels, run, [*names, "P(judged_only=True)@2"])
    q = {name: values["q"] for name, values in found.per_query.items()}
    assert q["RBP(p=0.8)"] == pytest.approx(0.2 * (0.8 + 0.8**3))
    assert q["RBP(p=0.5,rel=2)"] == pytest.approx(0.5 * 0.5**3)
    assert (q["Success@1"], q["Success@2"], q["Judged@4"]) == (0, 1, 0.75)
    assert (q["RR(rel=2)@3"], q["RR(rel=2)@10"], q["P(judged_only=True)@2"]) == (0, 0.25, 0.5)
    assert {values["nothing"] for values in found.per_query.values()} == {0.0}


def test_queries_in_several_parts_have_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    qrels = {f"q{q}": {f"d{d}": d % 3 for d in range(q % 5, 20)} for q in range(11)}
    run = {query: [(f"d{d}", float(d * 7 % 11)) for d in range(20)] for query in list(qrels)[:9]}
    whole = evaluate(qrels, run, NAMES)
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", 3)
    assert evaluate(qrels, run, NAMES) == whole and whole.queries_without_results == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("ndgc@10", "did you mean 'nDCG@10'?"),
        ("ndcg@10", "did you mean 'nDCG@10'?"),
        ("mrr@10", "did you mean 'MRR@10'?"),
        ("Recal(rel=2)@100", "did you mean 'Recall(rel=2)@100'?"),
        ("nDCG@0", "did you mean 'nDCG@10'?"),
        ("nDCG@ten", "did you mean 'nDCG@10'?"),
        ("P", "P needs a cutoff; did you mean 'P@10'?"),
        ("Recall", "Recall needs a cutoff; did you mean 'Recall@10'?"),
        ("RBP(p=0.8)@10", "RBP takes no cutoff; did you mean 'RBP(p=0.8)'?"),
        ("RBP(p=1.5)", "p is a number between 0 and 1"),
        ("nDCG(rel=2)@10", "nDCG has no parameter 'rel'; it takes judged_only"),
        ("Judged(rel=2)@10", "it takes no parameter"),
        ("RR(rel=0)@10", "rel is a grade of at least 1"),
        ("bleu", "known: nDCG[@k], RR[@k], AP[@k], P@k, R@k"),
        ("", "known: nDCG[@k]"),
        ("nDCG@10\nMRR", "did you mean 'nDCG@10'?"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_key_and_the_nearest_name(wrong: str, said: str) -> None:
    begins = f"unknown metric {wrong!r}"
    for where, call in (
        ("params.yaml: metrics: ", lambda: check(Evaluation, {"metrics": [wrong]}, "params.yaml")),
        ("", lambda: evaluate({"q": {"a": 1}}, {}, [wrong])),
    ):
        with pytest.raises(UserError) as caught:
            call()
        message = str(caught.value)
        assert message.startswith(where + begins) and said in message and "\n" not in message


def test_metric_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="twice"):
        check(Evaluation, {"metrics": ["MRR@10", "MRR@10"]}, "params.yaml")
    for one, two in (("MRR@10", "RR@10"), ("AP", "MAP(rel=1)"), ("RBP(p=0.8)", "RBP(rel=1, p=.80)")):
        with pytest.raises(UserError, match=r"are the same metric .*; keep one of each"):
            check(Evaluation, {"metrics": [one, "P@5", two]}, "params.yaml")


def test_run_of_other_queries_is_refused() -> None:
    with pytest.raises(UserError, match=r"x\.trec: none of its 1 queries \(such as z\) .* same collection and split"):
        evaluate({"q": {"a": 1}}, {"z": [("a", 1.0)]}, ["MRR@10"], "x.trec")
    with pytest.raises(UserError, match="the qrels have no query"):
        evaluate({}, {"z": [("a", 1.0)]}, ["MRR@10"], "x.trec")


dl19 = pytest.mark.skipif(
    not (SHARED / "collections/msmarco-dl19").is_dir(), reason="the shared collections are not here"
)


def dl19_qrels() -> Qrels:
    qrels: Qrels = {}
    for line in (SHARED / "collections/msmarco-dl19/qrels/test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    return qrels


@dl19
@pytest.mark.parametrize(
    ("run_name", "published"),
    [
        ("bm25", 0.5058),
        ("bm25-rm3", 0.5216),
        ("tasb", 0.7210),
        ("openai-ada2", 0.7035),
        ("spladepp-ed", 0.7308),
        # 0.7439 by its ranks. Its scores have three decimals, and trec_eval breaks the many ties by document id.
        ("repllama", 0.7384),
    ],
)
def test_official_runs_of_dl19(tmp_path: Path, run_name: str, published: float) -> None:
    """Runs as they are, and as `ssmrank retrieve import` writes them."""
    qrels, path = dl19_qrels(), SHARED / f"collections/msmarco-dl19/runs/{run_name}.trec"
    run = read_run(path)
    write_run(tmp_path / "imported.trec", dict(iterate_run(path)), "imported")
    for kept in (run, read_run(tmp_path / "imported.trec")):
        assert round(evaluate(qrels, kept, ["nDCG@10"]).mean()["nDCG@10"], 4) == published
    assert_agrees(qrels, run)


@dl19
def test_the_official_run_of_many_ties_as_it_was_ranked() -> None:
    """`ssmrank retrieve import` with `ties: file` keeps the authors' order, and so their value."""
    ranked = iterate_run(SHARED / "collections/msmarco-dl19/runs/repllama.trec", ties="file")
    run = {query: strictly_decreasing(ranking) for query, ranking in ranked}
    assert round(evaluate(dl19_qrels(), run, ["nDCG@10"]).mean()["nDCG@10"], 4) == 0.7439
