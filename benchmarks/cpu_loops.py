"""How much each CPU loop speeds up a whole model, compared with the plain PyTorch that it replaces; run by kernels.py.

A pass of a model is timed with all loops, and again with one operation at a time in plain PyTorch; contenders take
turns. Three kinds of pass together run every loop: reranking whole texts, reranking queries that share documents (the
loop for suffixes), and a training step (the backward loops).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Contender, Measurement, device_name, measure, write_csv
from shapes import CLASSES, Shape
from torch import nn

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation
from ssmrank.models.backbones import packed_forward
from ssmrank.models.packing import Packed, pack
from ssmrank.models.prefix_sharing import pack_shared

CPU = torch.device("cpu")
MODELS = {"Mamba-1": ("selective_scan", "causal_conv"), "Mamba-2": ("ssd", "causal_conv")}
"""The operations of each model."""


@dataclass(frozen=True)
class Size:
    """A size class of models, how many of their layers run, how many times shorter all texts are, and runs of each."""

    models: str
    layers: int
    shorter: int
    runs: int


# All layers are alike, so the ratios of 6 layers are those of the 24 of the whole model.
USUAL = (Size("4M", layers=6, shorter=1, runs=15), Size("130M", layers=6, shorter=1, runs=9))
TINY = (Size("4M", layers=1, shorter=8, runs=1),)
"""To see that everything runs; its times mean nothing."""


def main(output: Path, sizes: Sequence[Size] = USUAL) -> None:
    """Times all passes and writes the CSV."""
    rows: list[Measurement] = []
    for size, (name, operations) in product(sizes, MODELS.items()):
        [shape] = [shape for shape in CLASSES[size.models] if shape.name.startswith(name)]
        for title, make in PASSES.items():
            rows += measure(_contenders(title, shape, operations, make, size), CPU)
            write_csv(output, rows)


def _contenders(title: str, shape: Shape, operations: tuple[str, ...], make: Pass, size: Size) -> list[Contender]:
    model, (packed, step) = shape.ours(num_hidden_layers=size.layers), make(size.shorter)
    found: list[Contender] = []
    for operation in (None, *operations):
        row = Measurement(
            benchmark=title,
            model=shape.name,
            implementation="loops" if operation is None else f"plain {operation}",
            precision="fp32",
            batch=f"{len(packed.lengths)} segments",
            tokens=len(packed.input_ids),
            computed=len(packed.input_ids),
            device=device_name(CPU),
        )

        def run(operation: str | None = operation) -> None:
            with _plain(operation):
                step(model, packed)

        found.append((row, run, size.runs))
    return found


@contextmanager
def _plain(operation: str | None) -> Iterator[None]:
    """Runs an operation in plain PyTorch."""
    if operation is None:
        yield
        return
    usual = getattr(dispatch, operation)
    setattr(dispatch, operation, lambda *_, **__: Implementation.PLAIN)
    try:
        yield
    finally:
        setattr(dispatch, operation, usual)


Step = Callable[[nn.Module, Packed], Any]
Pass = Callable[[int], tuple[Packed, Step]]


def _infer(model: nn.Module, packed: Packed) -> None:
    with torch.inference_mode():
        packed_forward(model.eval(), packed)


def _train(model: nn.Module, packed: Packed) -> None:
    model.train().zero_grad()
    packed_forward(model, packed).square().mean().backward()


def _reranking(shorter: int) -> tuple[Packed, Step]:
    return pack([np.arange(length // shorter) for length in (512, 384)]), _infer


def _shared(shorter: int) -> tuple[Packed, Step]:
    """Three documents of 200 tokens, each with 24 queries of 16."""
    documents, queries = 3, 24
    lengths = np.array([200 // shorter] * documents + [16 // shorter] * documents * queries)
    parents = np.array([-1] * documents + [document for document in range(documents) for _ in range(queries)])
    return pack_shared(np.arange(lengths.sum()), lengths, parents)[0], _infer


def _training(shorter: int) -> tuple[Packed, Step]:
    return pack([np.arange(length // shorter) for length in (256, 160)]), _train


PASSES: dict[str, Pass] = {"reranking": _reranking, "document reuse": _shared, "training": _training}
