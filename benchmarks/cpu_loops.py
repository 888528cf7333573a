"""How much each CPU loop speeds up a whole model, compared with the plain PyTorch that it replaces; run by kernels.py.

A pass of a model is timed with all loops, and again with one operation at a time in plain PyTorch; contenders take
turns. Three kinds of pass together run every loop: reranking whole texts, reranking queries that share documents (the
loop for suffixes), and a training step (the backward loops).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
MODELS = {"Mamba-1-130M": ("selective_scan", "causal_conv", "norm"), "Mamba-2-130M": ("ssd", "causal_conv", "norm")}
"""The operations of each model."""
LAYERS = 6
"""Layers of the models' 24. All are alike, so the ratios are those of the whole model."""

RUNS = 3


def main(output: Path) -> None:
    """Times all passes and writes the CSV."""
    rows: list[Measurement] = []
    for name, operations in MODELS.items():
        [shape] = [shape for shape in CLASSES["130M"] if shape.name == name]
        for title, make in PASSES.items():
            rows += measure(_contenders(title, shape, operations, make), CPU)
            write_csv(output, rows)


def _contenders(title: str, shape: Shape, operations: tuple[str, ...], make: Pass) -> list[Contender]:
    model, (packed, step) = shape.ours(num_hidden_layers=LAYERS), make()
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

        found.append((row, run, RUNS))
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
Pass = Callable[[], tuple[Packed, Step]]


def _infer(model: nn.Module, packed: Packed) -> None:
    with torch.inference_mode():
        packed_forward(model.eval(), packed)


def _train(model: nn.Module, packed: Packed) -> None:
    model.train().zero_grad()
    packed_forward(model, packed).square().mean().backward()


def _reranking() -> tuple[Packed, Step]:
    return pack([np.arange(length) for length in (512, 384)]), _infer


def _shared() -> tuple[Packed, Step]:
    """Three documents of 200 tokens, each with 24 queries of 16."""
    documents, queries = 3, 24
    lengths = np.array([200] * documents + [16] * documents * queries)
    parents = np.array([-1] * documents + [document for document in range(documents) for _ in range(queries)])
    return pack_shared(np.arange(lengths.sum()), lengths, parents)[0], _infer


def _training() -> tuple[Packed, Step]:
    return pack([np.arange(length) for length in (256, 160)]), _train


PASSES: dict[str, Pass] = {"reranking": _reranking, "document reuse": _shared, "training": _training}
