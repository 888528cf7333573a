"""`ssmrank serve`: options, and what a user can get wrong."""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from http_client import ServerProcess, serving
from ssmrank.api import Reranker
from ssmrank.cli import main


def error_of(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line that a wrong call prints."""
    assert main(["serve", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("ssmrank serve: error: ")]
    assert said == lines[-1:]
    return said[0].removeprefix("ssmrank serve: error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "--port 70000: give a number from 0 to 65535"),
        (["--max-bytes", "0"], "--max-bytes 0: give at least 1"),
        (["--max-requests", "-1"], "--max-requests -1: give at least 1"),
        (["--timeout", "0"], "--timeout 0: give seconds from 0.001 to 86400"),
        (["--batch-tokens", "0"], "--batch-tokens 0: give at least 1"),
        (["--state-cache", "2 apples"], "--state-cache '2 apples': is no size; "),
        (["--window", "nan"], "--window nan: give seconds from 0 to 86400"),
        (["--host", "no.such.host.invalid", "--port", "0"], "--host no.such.host.invalid: "),
        (["--host", "192.0.2.1", "--port", "0"], "192.0.2.1 port 0: Cannot assign requested address; give as --host"),
    ],
)
def test_wrong_options(folder: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "--model", str(folder), *options).startswith(message)


def test_a_port_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = error_of(capsys, "--model", str(folder), "--port", port)
    assert said == (
        f"127.0.0.1 port {port}: Address already in use; stop the program that uses it, or give another --port"
    )


def test_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, "--model", str(tmp_path / "absent"), "--port", "0")
    assert said.startswith(f"model {tmp_path / 'absent'}: no such folder; ")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_package_names_the_extra(
    folder: Path, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("ssmrank.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    said = error_of(capsys, "--model", str(folder), "--port", "0")
    assert said == f"{package} is not installed; pip install 'ssmrank[serve]'"


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "tab\tkey"])
def test_a_key_that_no_header_can_have(
    folder: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(f"{key}\n")
    said = "the API key must be one or more ASCII characters without spaces; write another"
    asked = ["--model", str(folder), "--port", "0"]
    assert error_of(capsys, *asked, "--api-key-file", str(tmp_path / "key")) == f"{tmp_path / 'key'}: {said}"
    monkeypatch.setenv("SSMRANK_API_KEY", key)
    assert error_of(capsys, *asked) == f"SSMRANK_API_KEY: {said}"


def test_a_missing_key_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, "--model", str(folder), "--port", "0", "--api-key-file", str(tmp_path / "key"))
    assert said.startswith(f"{tmp_path / 'key'}: cannot read: No such file")


def test_states_of_a_collection_are_loaded(folder: Path, tmp_path: Path) -> None:
    """What `ssmrank states` has prepared is found by the first request."""
    texts = ["Otters sleep on the river.", "Moss grows on stones."]
    records = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts)]
    (tmp_path / "documents.jsonl").write_text("\n".join(records) + "\n")
    states, precision = ["--state-folder", str(tmp_path / "states")], ["--precision", "fp32"]
    assert main(["states", "--collection", str(tmp_path), "--model", str(folder), *states, *precision]) == 0
    with serving(folder, *states, *precision, "--state-loading", "always") as server:
        found = server.post("/v1/rerank", {"query": "fish", "documents": [*texts, "Snow falls."]}).body["results"]
        assert {result["index"]: result["cached"] for result in found} == {0: True, 1: True, 2: False}
        assert "ssmrank_document_states_loaded_total 2.0" in server.get("/metrics").raw.decode()


def test_scores_that_do_not_depend_on_the_batch(folder: Path) -> None:
    """With --deterministic batch a text's score has the same bits alone, among others, and in another user's batch."""
    texts = [f"A text about state space models, number {number}. " * (number % 7 + 1) for number in range(30)]
    options = ["--precision", "fp32", "--device", "cpu", "--deterministic", "batch"]

    def scores(server: ServerProcess, asked: list[str]) -> list[float]:
        ranks = server.post("/rerank", {"query": "fish", "texts": asked, "raw_scores": True}).body
        return [score for _, score in sorted((rank["index"], rank["score"]) for rank in ranks)]

    exact = Reranker.from_pretrained(folder, device="cpu", precision="fp32", deterministic="batch")
    with serving(folder, *options) as server, ThreadPoolExecutor(3) as users:
        together = list(users.map(lambda part: scores(server, part), (texts[:10], texts, texts[5:])))
        assert together[1] == exact.score("fish", texts)
        assert together == [together[1][:10], together[1], together[1][5:]]
        assert scores(server, texts[:1]) == together[1][:1]


def test_states_do_not_fit_exact_scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", str(folder), "--port", "0", "--deterministic", "batch", "--state-cache", "1GB"]
    assert error_of(capsys, *asked).startswith("state_cache: scores from kept states depend on where they were cut")


def test_a_state_folder_needs_memory(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", str(folder), "--port", "0", "--state-folder", str(tmp_path), "--state-cache", "0"]
    assert error_of(capsys, *asked).startswith("state_folder: needs memory")
