"""Where a job finds files that its settings name; the workflow knows the paths."""

from __future__ import annotations

from typing import Protocol


class Places(Protocol):
    """Paths of the workflow's outputs.

    A run is COLLECTION/SPLIT/RETRIEVER, or COLLECTION/SPLIT/RERANKING/TRAINING/MODEL, or that with /FUSION.
    """

    def checkpoint_of(self, training: str, model: str, /) -> str:
        """The folder of a trained reranker."""

    def pretrained_of(self, pretraining: str, model: str, /) -> str:
        """The folder of a pretrained language model."""

    def metrics_of(self, run: str, /) -> str:
        """The file of a run's metrics."""

    def speed_of(self, run: str, /) -> str:
        """The file of the speed at which a run was made."""
