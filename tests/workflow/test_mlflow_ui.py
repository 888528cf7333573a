"""The runs that jobs log, as a person sees them: in MLflow's page, rendered by a browser."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from browsers import Browser, answers, browser_in, free_port, needs_browser, start, stop, wait_for
from ssmrank.tracking import first_stage, track
from ssmrank.tracking.store import deliver

pytestmark = [pytest.mark.slow, needs_browser]

EXPERIMENT = "ssmrank-tests"
NDCG = {"minilm": 0.488, "opt-mini": 0.325, "mamba2-mini": 0.312}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three trainings, each with an evaluation in the same run, and a first stage, as jobs log them."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("SSMRANK_TRACKING_JOURNALS", str(folder / "journals"))
        for model, ndcg in NDCG.items():
            tags = {"model": model, "collection": "toy", "seed": "42"}
            with track("train", f"{model} firstp", tags, {"learning_rate": 2e-4}) as training:
                for step in range(5):
                    training.metrics({"loss": 1.8 / (step + 1)}, step=step)
                training.artifact_path("checkpoint", f"results/checkpoints/firstp/{model}")
            with track("evaluate", f"{model} firstp", tags, resume=training.run_id) as evaluation:
                evaluation.metrics({"toy/test/nDCG@10": ndcg})
        with track("evaluate", "bm25", resume=first_stage("bm25"), began=time.time() - 60) as evaluation:
            evaluation.metrics({"toy/test/nDCG@10": 0.25})
        deliver(folder / "journals", uri, EXPERIMENT)
    return uri


@pytest.fixture(scope="module")
def page(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's page for the store."""
    port = free_port()
    folder = tmp_path_factory.mktemp("server")
    server = start(
        [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port), "--backend-store-uri", store],
        folder / "log",
        os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{address}/health") or server.poll() is not None, "mlflow ui")
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        yield address
    finally:
        stop(server)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser_in(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def experiment_and_runs(uri: str) -> tuple[str, dict[str, str]]:
    """The experiment's id, and the id of each run by its name."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return experiment.experiment_id, {run.info.run_name: run.info.run_id for run in runs}


def see(browser: Browser, url: str, expected: list[str], screenshot: Path) -> str:
    """Opens a page, waits until it shows what is expected, and saves a picture of it in any case."""
    browser.open(url)
    try:
        wait_for(lambda: all(text in browser.text() for text in expected), f"page with {expected}", seconds=90)
    finally:
        browser.screenshot(screenshot)
    return browser.text()


def test_a_training_and_its_evaluation_are_one_run(store: str) -> None:
    _, runs = experiment_and_runs(store)
    assert set(runs) == {*(f"{model} firstp" for model in NDCG), "bm25"}


def test_the_page_lists_the_runs(store: str, page: str, browser: Browser, tmp_path: Path) -> None:
    experiment, runs = experiment_and_runs(store)
    text = see(browser, f"{page}/#/experiments/{experiment}/runs", [*runs], tmp_path / "runs.png")
    assert "4 matching runs" in text


def test_the_page_charts_metrics(store: str, page: str, browser: Browser, tmp_path: Path) -> None:
    experiment, runs = experiment_and_runs(store)
    url = f"{page}/#/experiments/{experiment}/runs?compareRunsMode=CHART"
    # Bars show two digits; a metric over steps is one line per run.
    expected = ["toy/test/nDCG_at_10", "0.49", "0.33", "0.31", *(f"{name} (loss)" for name in runs)]
    see(browser, url, expected, tmp_path / "chart.png")


def test_the_page_compares_metrics_and_parameters(store: str, page: str, browser: Browser, tmp_path: Path) -> None:
    experiment, runs = experiment_and_runs(store)
    query = urllib.parse.urlencode(
        {"runs": json.dumps(list(runs.values())), "experiments": json.dumps([experiment])}, quote_via=urllib.parse.quote
    )
    expected = [*runs, "toy/test/nDCG_at_10", "loss", "learning_rate", *(str(ndcg) for ndcg in NDCG.values())]
    see(browser, f"{page}/#/compare-runs?{query}", expected, tmp_path / "compare.png")


def test_the_page_of_a_run_shows_metrics_and_checkpoint(
    store: str, page: str, browser: Browser, tmp_path: Path
) -> None:
    experiment, runs = experiment_and_runs(store)
    expected = ["toy/test/nDCG_at_10", str(NDCG["minilm"]), "loss", "0.36", "results/checkpoints/firstp/minilm"]
    url = f"{page}/#/experiments/{experiment}/runs/{runs['minilm firstp']}"
    see(browser, url, expected, tmp_path / "run.png")


def test_the_view_of_metrics_has_trainings_first(store: str, page: str, browser: Browser, tmp_path: Path) -> None:
    # This comes last, because the page remembers the view.
    experiment, runs = experiment_and_runs(store)
    url = f"{page}/#/experiments/{experiment}/runs?viewStateShareKey=metrics&workflowType=machine_learning"
    expected = ["Trainings and their metrics", "toy/test/nDCG_at_10", *runs, *map(str, NDCG.values()), "0.25"]
    text = see(browser, url, expected, tmp_path / "view.png")
    assert all(text.index(f"{model} firstp") < text.index("bm25") for model in NDCG)
    cut_off = browser.run(
        "return [...document.querySelectorAll('.ag-header-cell *')].filter(part => part.textContent.includes('nDCG')"
        " && part.clientWidth && part.scrollWidth > part.clientWidth + 1).map(part => part.textContent)"
    )
    assert cut_off == [], "heads of columns"
