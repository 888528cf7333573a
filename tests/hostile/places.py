"""Helpers of the tests of hostile inputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ssmrank.io.checksum import sha256


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def place(path: Path, content: bytes | str) -> Path:
    """Writes a file; if the content is a word for it, makes a pipe, a device or a folder instead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if content == "pipe":
        os.mkfifo(path)
    elif content == "device":
        path.symlink_to("/dev/zero")
    elif content == "folder":
        path.mkdir()
    elif content == "circle":
        path.symlink_to(path.name)
    elif content != "missing":
        assert isinstance(content, bytes)
        path.write_bytes(content)
    return path


NO_FILES = {
    "pipe": "is a pipe, not a file",
    "device": "is a device, not a file",
    "folder": "Is a directory",
    "circle": "Too many levels of symbolic links",
    "missing": "o such file",
}
"""What is there in place of a file, and the error for it."""

BEIR = {
    "corpus.jsonl": b'{"_id": "d1", "title": "a", "text": "one"}\n{"_id": "d2", "title": "b", "text": "two"}\n',
    "queries.jsonl": b'{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n',
    "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n",
}


def run_settings(path: Path) -> str:
    digest = sha256(path) if path.is_file() else "0" * 64
    runs = {"tiny/test": {"path": str(path), "sha256": digest}}
    return json.dumps({"kind": "run", "label": "R", "runs": runs})
