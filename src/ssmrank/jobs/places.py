"""Paths of files that settings name; the workflow knows them."""

from __future__ import annotations

from typing import Protocol


class Places(Protocol):
    """Paths of the workflow's outputs.

    A run is COLLECTION/SPLIT/RETRIEVER, COLLECTION/SPLIT/RERANKING/TRAINING/MODEL, or the latter followed by /FUSION.
    """

    def checkpoint_of(self, training: str, model: str, /) -> str:
        """The folder of a trained reranker."""

    def pretrained_of(self, pretraining: str, model: str, /) -> str:
        """The folder of a pretrained language model."""

    def metrics_of(self, run: str, /) -> str:
        """The file with a run's metrics."""

    def speed_of(self, run: str, /) -> str:
        """The file with the speed at which a run was made."""

    def tokens_of(self, run: str, /) -> str:
        """The file with the number of tokens that a run took."""
