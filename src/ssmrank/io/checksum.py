"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.files import open_file


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes in hex; raises UserError if the file cannot be read."""
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder, by its path relative to the folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def verify_sha256(path: str | Path, expected: str) -> None:
    """Raises UserError, naming both digests, if the file does not have the expected one."""
    actual = sha256(path)
    if actual != expected:
        raise UserError(
            f"{path}: sha256 is {actual}, expected {expected}; "
            "the file is damaged or another version: delete it and download again, or correct sha256 in params.yaml"
        )
