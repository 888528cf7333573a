"""Folders with digests of their files, so that damage is found before programs read it that would not notice."""

from __future__ import annotations

import json
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.checksum import folder_digests, sha256
from ssmrank.io.plain import read_json

_SEAL = "digests.json"


def seal(folder: Path) -> None:
    """Writes the SHA-256 of each file of a complete folder into it."""
    (folder / _SEAL).write_text(json.dumps(folder_digests(folder), indent=2) + "\n", encoding="utf-8")


def check_seal(folder: Path, advice: str) -> None:
    """Raises UserError, which ends in `advice`, if a sealed file is missing or has changed."""
    for name, digest in read_json(folder / _SEAL, advice).items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; {advice}")
        if sha256(path) != digest:
            raise UserError(f"{path}: is damaged; {advice}")
