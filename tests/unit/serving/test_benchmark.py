"""benchmarks/serving.py: its load is open, its soak finds wrong answers, its servers rank. Nothing is measured here."""

from __future__ import annotations

import asyncio
import csv
import json
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from http_client import ServerProcess
from ssmrank import Reranker


@pytest.fixture
def load(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import serving_load

    return serving_load


@pytest.fixture
def benchmark(load: ModuleType) -> ModuleType:
    import serving

    return serving


def words(load: ModuleType, root: Path) -> list[str]:
    return load.words_of(root / "models/minis/mamba2/tokenizer.json")


def test_percentiles_are_values_that_occurred(load: ModuleType) -> None:
    values = random.Random(0).sample(range(1000), 137)
    for share in (0.01, 0.5, 0.99, 1.0):
        assert load.percentile(values, share) == np.percentile(values, 100 * share, method="inverted_cdf")


def test_requests_have_the_lengths_and_the_share_of_known_documents(load: ModuleType, root: Path) -> None:
    texts = load.Texts("dl19", words(load, root), known=30, seed=0)
    lengths = json.loads((root / "benchmarks/workloads/dl19.json").read_text())["documents"]
    drawn = [len(texts.new().split()) - 3 for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(np.mean(lengths), rel=0.05) and set(drawn) <= set(lengths)
    known, shares = set(texts.known), []
    for _ in range(200):
        documents = json.loads(texts.request(10, 0.5))["documents"]
        assert len(set(documents)) == 10
        shares.append(len(known & set(documents)) / 10)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert not known & set(json.loads(texts.request(10, 0.0))["documents"])
    assert set(json.loads(texts.request(10, 1.0))["documents"]) <= known


def test_words_are_one_token_each(load: ModuleType, root: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / "models/minis/mamba2")
    chosen = random.Random(0).sample(words(load, root), 500)
    assert len(tokenizer.encode(" " + " ".join(chosen), add_special_tokens=False)) == 500


def test_waiting_in_the_client_s_queue_counts_as_latency(load: ModuleType) -> None:
    """A server that answers one request at a time and has more of them than it can answer: an open loop shows it."""
    one_at_a_time = asyncio.Lock()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                async with one_at_a_time:
                    await asyncio.sleep(0.02)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            writer.close()

    async def run() -> list[float]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            client = load.Client("127.0.0.1", server.sockets[0].getsockname()[1])
            answers = await load.open_loop(client, [b"{}"] * 60, rate=500, seed=0)
            client.close()
        assert all(one.status == 200 for one in answers)
        return [one.latency for one in answers]

    latencies = asyncio.run(run())
    # 60 requests in about 0.12 s take 1.2 s: the last one waits for all before it.
    assert latencies[-1] > 5 * latencies[0] and latencies[-1] > 0.8


def test_the_queue_without_noise_says_where_p99_is_near_p50(load: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import serving_queue

    monkeypatch.setattr(serving_queue, "MANY", 5000)
    alone = serving_queue.latencies(2.0, 0.0, 1.0, 5000, load=1e-6, seed=0)
    assert alone == pytest.approx(24.0)
    assert serving_queue.promise("equal requests", 2.0, 0.0, 1.0).startswith(
        "equal requests: p99 is at most 3 times p50 at loads of 5, 10, 15"
    )
    unequal = serving_queue.promise("unequal requests", 1.5, 30.0, 0.95)
    # One request in a hundred has three new documents, half have none: (19 + 90) / 19.
    assert unequal.endswith("; 5.7 times where no request waits") and "loads of 5" not in unequal


def test_the_soak_finds_what_is_lost_or_wrong(load: ModuleType) -> None:
    import serving_soak

    def found(status: int, results: list[tuple[int, float]]) -> list[str]:
        soak = serving_soak.Soak("127.0.0.1", 1, 1, serving_soak.Pool([], [], []))
        content = json.dumps({"results": [{"index": index, "relevance_score": score} for index, score in results]})
        soak._check(status, content.encode(), [0.5, 2.0])
        return soak.report.wrong

    assert found(200, [(1, 2.0), (0, 0.5001)]) == []
    assert found(500, []) and found(200, [(1, 2.0)]) and found(200, [(1, 2.0), (1, 0.5)])
    assert found(200, [(0, 0.5), (1, 2.0)]) == ["not in the order of scores"]
    assert found(200, [(1, 2.0), (0, 0.51)]) == ["a score is off by 1.00e-02"]


@pytest.mark.slow
def test_malformed_cut_and_slow_requests_harm_nobody(benchmark: ModuleType, root: Path, tmp_path: Path) -> None:
    """With room for half of the documents' states, so that each request computes some anew."""
    options = ("--state-cache", "20MB")
    report = benchmark.soak(root / "models/minis/mamba2", 200, 8, tmp_path, 30, 5, share=0.1, options=options)
    assert report.wrong == []
    assert min(report.counts[kind] for kind in ("malformed", "cut", "slow")) >= 10
    row = report.row()
    assert row["requests"] == "200" and 0 < report.largest_error < 1e-4
    assert float(row["memory_late_mib"]) < float(row["memory_early_mib"]) + 200


@pytest.mark.slow
def test_a_server_is_measured(
    benchmark: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini = root / "models/minis/mamba2"
    states, collection = tmp_path / "states", tmp_path / "collection"
    options = ("--state-cache", "10MB", "--state-folder", str(states), "--state-loading", "always")

    def prepare(texts: list[str]) -> None:
        benchmark.write_states(mini, texts, collection, states)

    contender = benchmark.Contender("mini", "ssmrank, states on disk", benchmark.ours(mini, *options), prepare=prepare)
    [row] = benchmark.measured(contender, benchmark.TINY, tmp_path, seed=0)
    assert row.requests >= 5 and row.refused == 0 and row.pairs_per_second > 0
    assert 0 < row.p50_ms <= row.p99_ms and row.memory_mib > 100
    assert row.cached > 0.7
    benchmark.write_rows(tmp_path / "serving-cpu.csv", [vars(row)])
    [written] = csv.DictReader((tmp_path / "serving-cpu.csv").open())
    assert written["server"] == "ssmrank, states on disk"
    import docs_tables

    monkeypatch.setattr(docs_tables, "RESULTS", tmp_path)
    assert docs_tables.serving_cpu().count("\n") == 2


@pytest.mark.slow
def test_cross_encoder_gives_our_scores_in_the_same_server(benchmark: ModuleType, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    mini, query, texts = root / "models/minis/bert", "river animals", ["The otter hunts fish.", "Lava flows.", ""]
    command = benchmark.theirs(mini, benchmark.exported(mini, tmp_path / "exported"))
    port = benchmark.free_port()
    with benchmark.started(command(port), port, tmp_path / "log") as process:
        server = ServerProcess(process, tmp_path, "127.0.0.1", port)
        body = {"query": query, "documents": texts, "use_activation": False}
        results = server.post("/v2/rerank", body).body["results"]
    expected = Reranker.from_pretrained(mini, device="cpu", precision="fp32").score(query, texts)
    scores = [one["relevance_score"] for one in sorted(results, key=lambda one: one["index"])]
    assert scores[:2] == pytest.approx(expected[:2], abs=1e-4)
