"""A server that speaks as much of the Hugging Face hub's HTTP API as uploads and downloads of models need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = {"hf_owner": "someone", "hf_reader": None}
"""The account that each token may write to."""


class Server(ThreadingHTTPServer):
    """What it holds: repositories with their files, large files by digest, and the requests that it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.messages: list[str] = []
        self.created: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub_server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(("POST", self.path))
        if self.path == "/api/validate-yaml":
            return self.answer({} if json.loads(body)["content"].startswith("---\n") else {"errors": []})
        owner = TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "), "")
        if owner == "":
            return self.refuse(401, "Invalid credentials in Authorization header")
        if self.path == "/api/repos/create":
            return self.create(json.loads(body), owner)
        if found := re.fullmatch(r"/api/models/(.+?)/(preupload|commit)/main(\?create_pr=1)?", self.path):
            if found[1] not in self.server.repositories:
                return self.refuse(404, "Repository not found")
            if found[1].partition("/")[0] != owner:
                return self.refuse(403, "You don't have the rights to change this model")
            return getattr(self, found[2])(found[1], body)
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", self.path):
            return self.batch(json.loads(body))
        if self.path.startswith("/verify/"):
            told = json.loads(body)
            same = len(self.server.large.get(told["oid"], b"")) == told["size"]
            return self.answer({}) if same else self.refuse(422, "not the file that was announced")
        return self.refuse(404, "no such address")

    def create(self, told: dict[str, Any], owner: str | None) -> None:
        self.server.created.append(told)
        if owner is None or (told["organization"] or owner) != owner:
            return self.refuse(403, "You don't have the rights to create a model here")
        id = f"{owner}/{told['name']}"
        if id in self.server.repositories:
            return self.refuse(409, "You already created this model repo", url=f"{self.server.address}/{id}")
        self.server.repositories[id] = {}
        return self.answer({"url": f"{self.server.address}/{id}"})

    def preupload(self, id: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        for file in files:
            assert len(base64.b64decode(file["sample"])) == min(512, file["size"])
        large = {file["path"]: file["path"].endswith(".safetensors") for file in files}
        modes = [
            {"path": path, "uploadMode": "lfs" if large[path] else "regular", "shouldIgnore": False} for path in large
        ]
        self.answer({"files": modes})

    def batch(self, told: dict[str, Any]) -> None:
        assert told["operation"] == "upload" and told["hash_algo"] == "sha256"
        address = self.server.address
        objects = [
            one | {"actions": {name: {"href": f"{address}/{name}/{one['oid']}"} for name in ("upload", "verify")}}
            for one in told["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def do_PUT(self) -> None:
        self.server.requests.append(("PUT", self.path))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != digest:
            return self.refuse(400, "content and digest differ")
        self.server.large[digest] = content
        return self.answer({})

    def commit(self, id: str, body: bytes) -> None:
        files = self.server.repositories[id]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        sha = commit_of(files)
        told = {"commitUrl": f"{self.server.address}/{id}/commit/{sha}", "commitOid": sha}
        self.answer(told | {"pullRequestUrl": f"{self.server.address}/{id}/discussions/1"})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
            if found[1] not in self.server.repositories:
                return self.refuse(404, "Repository not found", code="RepoNotFound")
            files, rest = self.server.repositories[found[1]], found[2] or ""
            if rest.startswith("/tree/"):
                return self.answer(
                    [
                        {"type": "file", "path": name, "size": len(files[name]), "oid": digest(files[name])}
                        for name in files
                    ]
                )
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": found[1], "sha": commit_of(files), "siblings": siblings})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.server.repositories.get(found[1], {}).get(found[2])
            if content is not None:
                return self.send(content, "application/octet-stream", commit_of(self.server.repositories[found[1]]))
        return self.refuse(404, "no such file", code="EntryNotFound")

    do_HEAD = do_GET

    def answer(self, told: Any, kind: str = "application/json") -> None:
        self.send(json.dumps(told).encode(), kind)

    def send(self, content: bytes, kind: str, commit: str = "") -> None:
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": len(content), "ETag": f'"{digest(content)}"'}
        for name, value in (headers | {"X-Repo-Commit": commit}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, message: str, code: str = "", **more: str) -> None:
        content = json.dumps({"error": message} | more).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": len(content), "X-Error-Message": message}
        for name, value in (headers | ({"X-Error-Code": code} if code else {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def commit_of(files: dict[str, bytes]) -> str:
    return digest(b"".join(name.encode() + content for name, content in sorted(files.items())))
