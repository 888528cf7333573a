"""Downloads from the hub; a server on this machine takes its place."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ssmrank.config.models import HubModel
from ssmrank.errors import UserError
from ssmrank.models import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if "/tree/" in self.path:
            tree = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": "e"} for name in FILES]
            return self.answer(json.dumps(tree).encode(), "application/json")
        if self.path.startswith("/api/models/some/model"):
            about = {"id": "some/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in [*FILES, "x.py"]]}
            return self.answer(json.dumps(about).encode(), "application/json")
        name = self.path.rpartition("/")[2]
        if self.path == f"/some/model/resolve/{COMMIT}/{name}" and name in FILES:
            return self.answer(FILES[name], "application/octet-stream")
        return self.send_error(404)

    do_HEAD = do_GET

    def answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": len(content), "ETag": '"e"', "X-Repo-Commit": COMMIT}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def use(address: str) -> None:
        for module in ("huggingface_hub.hf_api", "huggingface_hub.constants", "huggingface_hub._snapshot_download"):
            monkeypatch.setattr(f"{module}.ENDPOINT", address, raising=False)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)

    return use


def python_free(names):
    return [name for name in names if not name.endswith(".py")]


def test_the_commit_is_recorded_and_said(endpoint, at, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    at(endpoint)
    caplog.set_level(logging.INFO)
    hub.download(HubModel(kind="hub", id="some/model"), tmp_path, python_free)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert not (tmp_path / "x.py").exists()
    assert json.loads((tmp_path / "hub.json").read_text()) == {"some/model": COMMIT}
    assert f"`revision: {COMMIT}` in params.yaml keeps it" in caplog.text


def test_without_a_network_tries_are_said_and_counted(
    at, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at("http://127.0.0.1:9")  # a port that nobody listens on
    monkeypatch.setattr("time.sleep", lambda _: None)
    caplog.set_level(logging.INFO)
    with pytest.raises(UserError, match=r"^model some/model: the hub cannot be reached in 3 tries \(.*; check the net"):
        hub.download(HubModel(kind="hub", id="some/model"), tmp_path, python_free)
    assert [f"try {number} of 3" in caplog.text for number in (1, 2, 3)] == [True] * 3
    assert hub.TRIES * (hub.TIMEOUT_SECONDS + 1) < 30
