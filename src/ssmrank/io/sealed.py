"""Folders that say what they hold: damage is found before other programs, which may not notice, read it."""

from __future__ import annotations

import json
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.checksum import folder_digests, sha256
from ssmrank.io.plain import read_json

_SEAL = "digests.json"


def seal(folder: Path) -> None:
    """Writes down the SHA-256 of each file in a folder, when it is complete."""
    (folder / _SEAL).write_text(json.dumps(folder_digests(folder), indent=2) + "\n", encoding="utf-8")


def check_seal(folder: Path, advice: str) -> None:
    """Raises UserError, which ends in `advice`, where a file is missing or is not as it was sealed."""
    for name, digest in read_json(folder / _SEAL, advice).items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; {advice}")
        if sha256(path) != digest:
            raise UserError(f"{path}: is damaged; {advice}")
