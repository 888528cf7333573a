"""State from which a training goes on after it was killed."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from ssmrank.io.atomic import atomic_directory
from ssmrank.io.checksum import sha256

log = logging.getLogger(__name__)

_PREFIX = "step-"
_KEPT = 2


class TrainingState:
    """Checkpoints of a training in a folder, newest last.

    Each is a folder that is complete or absent, with digests of its files; a damaged one is passed over. `fingerprint`
    names the inputs and settings: checkpoints of another fingerprint are not continued.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps, then removes all but the newest two."""
        with atomic_directory(self.folder / f"{_PREFIX}{step:08d}") as temporary:
            torch.save(state, temporary / "state.pt")
            manifest = {"fingerprint": self.fingerprint, "step": step, "sha256": sha256(temporary / "state.pt")}
            (temporary / "manifest.json").write_text(json.dumps(manifest))
        for old in self._checkpoints()[:-_KEPT]:
            shutil.rmtree(old)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """The newest sound checkpoint of this fingerprint: (steps done, state), or None."""
        for checkpoint in reversed(self._checkpoints()):
            try:
                manifest = json.loads((checkpoint / "manifest.json").read_text())
                sound = manifest["sha256"] == sha256(checkpoint / "state.pt")
            except (OSError, ValueError, KeyError):
                sound = False
            if not sound:
                log.warning("%s: damaged checkpoint passed over", checkpoint)
            elif manifest["fingerprint"] == self.fingerprint:
                return manifest["step"], torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        return None

    def clear(self) -> None:
        """Removes all checkpoints: the training is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_PREFIX}*"))
