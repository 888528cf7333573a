"""Checkpoints of sharded trainings: each process writes its part, and any number of processes reads them.

What a process has of a parameter, or of one of AdamW's moments, is a range of the flattened tensor, whichever way the
training is sharded. `torch.distributed.checkpoint` finds what overlaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    STATE_DICT_TYPE,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from typing_extensions import override

from ssmrank.errors import UserError, reason_of
from ssmrank.io.atomic import disk_errors
from ssmrank.io.checksum import sha256
from ssmrank.models.packed_model import PackedModel
from ssmrank.training.optimizer import MOMENTS, Moments, begin
from ssmrank.training.parallel import M, Replicated, load_state
from ssmrank.training.state import TrainingState


@dataclass(frozen=True)
class Piece:
    """A process's range of a flattened tensor: `part` `[n]` starts at `start` of `length` values; n may be 0.

    `torch.distributed.checkpoint` calls the methods.
    """

    part: Tensor
    start: int
    length: int

    def size(self) -> torch.Size:
        """That of the whole tensor."""
        return torch.Size([self.length])

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        data = (
            TensorWriteData(chunk, TensorProperties.create_from_tensor(self.part), self.size())
            for chunk in self._chunks()
        )
        return [
            WriteItem(MetadataIndex(name, torch.Size([self.start])), WriteItemType.SHARD, tensor_data=one)
            for one in data
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return self._chunks()

    def _chunks(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size([self.start]), self.part.shape)] if len(self.part) else []


Pieces = dict[str, Piece]


class _Saving(dcp.DefaultSavePlanner):
    @override
    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return cast(Piece, self.state_dict[index.fqn]).part


class _Loading(dcp.DefaultLoadPlanner):
    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False)

    @override
    def set_up_planner(
        self, state_dict: STATE_DICT_TYPE, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        # The default one drops what it does not know.
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    @override
    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return cast(Piece, self.state_dict[index.fqn]).part


class Parted(Replicated):
    """A training in which each process has a part of the weights that the optimizer changes, and of its state."""

    def pieces(self, reranker: PackedModel, moments: Moments) -> Pieces:
        """This process's parts of all trained weights and their moments; those of the state are views."""
        raise NotImplementedError

    def read_pieces(self, reranker: PackedModel) -> None:
        """Follows a change of the parts of the weights."""

    @override
    def save(
        self,
        state: TrainingState,
        step: int,
        reranker: PackedModel,
        optimizer: torch.optim.Optimizer,
        facts: dict[str, Any],
        best: int | None,
    ) -> None:
        pieces = self.pieces(reranker, Moments(optimizer))
        if self.rank > 0:
            self._write(Path(self.gather("")[0]), pieces)
            return
        with state.saving(step, best) as new:
            folder = new.shards
            self.gather(str(folder))
            new.complete(facts, self._write(folder, pieces))

    def _write(self, folder: Path, pieces: Pieces) -> dict[str, str]:
        """Writes this process's pieces; returns the digests of all processes' files, by name."""
        with _one_error(folder), self._others():
            dcp.save(dict(pieces), storage_writer=dcp.FileSystemWriter(folder, sync_files=False), planner=_Saving())
        own = [*folder.glob(f"__{self.rank}_*"), *(folder.glob(".metadata") if self.rank == 0 else ())]
        digests: dict[str, str] = {}
        for found in self.gather({file.name: sha256(file) for file in own}):
            digests |= found
        return digests

    @override
    def load(
        self, state: TrainingState, step: int, reranker: PackedModel, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        facts = state.read(step)
        folder = state.shards(step)
        begin(optimizer, step)
        moments = Moments(optimizer)
        with _one_error(folder), self._others():
            pieces = self.pieces(reranker, moments)
            dcp.load(dict(pieces), storage_reader=dcp.FileSystemReader(folder), planner=_Loading())
        moments.put_back()
        self.read_pieces(reranker)
        return facts

    @override
    def whole(self, reranker: M, new: Callable[[], M]) -> M:
        weights = self.weights(reranker)
        if self.rank > 0:
            return reranker
        whole = new()
        load_state(whole, weights)
        return whole.eval()


def parts_of(parameter: Tensor, own: Tensor, moments: Moments) -> dict[str, Tensor]:
    """What a process has of a parameter and its moments, as vectors; own: of the parameter itself."""
    return {"weight": own.detach().view(-1)} | {kind: moments.of(parameter, kind) for kind in MOMENTS}


@contextmanager
def _one_error(folder: Path) -> Iterator[None]:
    """Turns the errors of all processes into the first one, as a UserError that names the folder."""
    try:
        yield
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        with disk_errors(folder.parent):
            if isinstance(first, OSError):
                raise first from error
        raise UserError(f"{folder.parent}: {reason_of(Exception(first))}") from error
