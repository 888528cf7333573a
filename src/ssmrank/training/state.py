"""The state from which a training resumes after a kill."""

from __future__ import annotations

import json
import logging
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory, atomic_file
from ssmrank.io.checksum import sha256

log = logging.getLogger(__name__)

_STEP, _BEST = "step-", "best-"
_KEPT = 2
_FILE, _MANIFEST, _SHARDS = "state.pt", "manifest.json", "shards"


@dataclass(frozen=True)
class NewState:
    """A state that is being written into a temporary folder."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def shards(self) -> Path:
        """The folder for files of all processes."""
        return self.folder / _SHARDS

    def complete(self, content: Any, shards: Mapping[str, str] | None = None) -> None:
        """Writes the content and the manifest. shards: digests of the files in `shards`, by name."""
        torch.save(content, self.folder / _FILE)
        manifest = {**self.facts, "sha256": sha256(self.folder / _FILE)}
        if shards is not None:
            manifest["shards"] = dict(shards)
        (self.folder / _MANIFEST).write_text(json.dumps(manifest))


class TrainingState:
    """A folder with the checkpoints of a training: states to resume from, newest last, and the best weights so far.

    Each checkpoint is a folder that is complete or absent, with digests of its files. A damaged one is skipped.
    `fingerprint` names the inputs and settings; a training does not resume from a checkpoint of another fingerprint.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def save(self, step: int, state: dict[str, Any], best: int | None = None) -> None:
        """Writes the state after `step` steps, and removes all but the newest two states and the weights they name.

        best: the step of the best weights so far, which `save_best` has written.
        """
        with self.saving(step, best) as new:
            new.complete(state)

    @contextmanager
    def saving(self, step: int, best: int | None = None) -> Iterator[NewState]:
        """As `save`, for a state that several processes write; it is one of the states once the block has ended."""
        with self._writing(_STEP, step, {"best": best}) as new:
            yield new
        kept = self._checkpoints(_STEP)[-_KEPT:]
        named = {manifest["best"] for checkpoint in kept if (manifest := _manifest(checkpoint)) is not None}
        for old in self._checkpoints(_STEP)[:-_KEPT]:
            shutil.rmtree(old)
        for old in self._checkpoints(_BEST):
            if int(old.name.removeprefix(_BEST)) not in named:
                shutil.rmtree(old)

    def save_best(self, step: int, weights: dict[str, torch.Tensor]) -> None:
        """Writes the weights after `step` steps. Older ones stay as long as a state names them."""
        with self._writing(_BEST, step, {}) as new:
            new.complete(weights)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """The newest undamaged state of this fingerprint, as (steps done, state), or None."""
        step = self.newest()
        return None if step is None else (step, self.read(step))

    def newest(self) -> int | None:
        """The steps done in the newest undamaged state of this fingerprint."""
        for checkpoint in reversed(self._checkpoints(_STEP)):
            manifest = self._sound(checkpoint)
            if manifest is None:
                log.warning("%s: the checkpoint is damaged; skipping it", checkpoint)
            elif manifest["fingerprint"] == self.fingerprint:
                if manifest["best"] is not None and self._sound(self._path(_BEST, manifest["best"])) is None:
                    log.warning("%s: its best weights are damaged; skipping it", checkpoint)
                    continue
                return manifest["step"]
        return None

    def read(self, step: int) -> dict[str, Any]:
        """The content of the state after `step` steps, which `newest` has found undamaged."""
        return torch.load(self._path(_STEP, step) / _FILE, map_location="cpu", weights_only=True)

    def shards(self, step: int) -> Path:
        """The folder of the files that all processes have written."""
        return self._path(_STEP, step) / _SHARDS

    def load_best(self, step: int) -> dict[str, torch.Tensor]:
        """The best weights, which are those after `step` steps. Raises UserError if they are damaged."""
        checkpoint = self._path(_BEST, step)
        if self._sound(checkpoint) is None:
            raise UserError(f"{checkpoint}: the best weights are damaged; remove {self.folder} and train again")
        return torch.load(checkpoint / _FILE, map_location="cpu", weights_only=True)

    def tracking_run(self) -> str:
        """The id of the MLflow run that tracks the training, the same after a resume."""
        path = self.folder / "tracking_run"
        if path.is_file():
            fingerprint, _, run = path.read_text(encoding="utf-8", errors="replace").partition(" ")
            if fingerprint == self.fingerprint and run:
                return run
        run = uuid.uuid4().hex
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as stream:
            stream.write(f"{self.fingerprint} {run}")
        return run

    def remove_unfinished(self) -> None:
        """Removes half-written checkpoints, which a kill leaves."""
        for part in self.folder.glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def clear(self) -> None:
        """Removes all checkpoints when the training is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _writing(self, prefix: str, step: int, facts: dict[str, Any]) -> Iterator[NewState]:
        with atomic_directory(self._path(prefix, step)) as temporary:
            yield NewState(temporary, {"fingerprint": self.fingerprint, "step": step, **facts})

    def _sound(self, checkpoint: Path) -> dict[str, Any] | None:
        manifest = _manifest(checkpoint)
        if manifest is None:
            return None
        files = {checkpoint / _FILE: manifest["sha256"]}
        files |= {checkpoint / _SHARDS / Path(name).name: digest for name, digest in manifest.get("shards", {}).items()}
        try:
            return manifest if all(sha256(file) == digest for file, digest in files.items()) else None
        except (OSError, UserError):  # one is missing, or is no file
            return None

    def _path(self, prefix: str, step: int) -> Path:
        return self.folder / f"{prefix}{step:08d}"

    def _checkpoints(self, prefix: str) -> list[Path]:
        named = re.compile(rf"{prefix}[0-9]{{8,}}")
        return sorted(path for path in self.folder.glob(f"{prefix}*") if path.is_dir() and named.fullmatch(path.name))


def _manifest(checkpoint: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest; None if it is not one that `TrainingState` writes."""
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds: dict[str, Any] = {"fingerprint": str, "step": int, "sha256": str}
    if checkpoint.name.startswith(_STEP):
        kinds["best"] = int | None
    if isinstance(manifest, dict) and "shards" in manifest:
        kinds["shards"] = dict
    if not isinstance(manifest, dict) or manifest.keys() != kinds.keys():
        return None
    return manifest if all(isinstance(manifest[key], kind) for key, kind in kinds.items()) else None
