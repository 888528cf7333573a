"""Compares loss and gradients of one step on several GPUs with one GPU's at the same global batch.

In float32 they differ only by the order of summation. In bf16 the matrix products' rounding differs as well, because a
GPU's micro-batches differ. The bound is the distance of one GPU's bf16 gradients from its float32 gradients.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from peers import packed_scorer
from several_gpus_report import Report
from shapes import Shape
from torch import nn

from ssmrank.models.precision import Precision
from ssmrank.training.gathered import GatheredOnce
from ssmrank.training.gradients import Accumulator
from ssmrank.training.loss import LOSSES
from ssmrank.training.parallel import Replicated, Workers
from ssmrank.training.sharded import Sharded

_SMALLEST = 1e-4
"""Share of the norm of all gradients below which a parameter's own difference is ignored."""

Groups = list[list[np.ndarray]]


class Step(NamedTuple):
    """A step's loss, its whole (unsharded) gradients by name, and whether passes were CUDA graphs."""

    loss: float
    gradients: dict[str, torch.Tensor]
    graphs: bool = False


class Distance(NamedTuple):
    """Distance of two steps: of losses (absolute), of all gradients (relative), of the worst parameter (relative)."""

    loss: float
    whole: float
    worst: float

    def __str__(self) -> str:
        return f"loss {self.loss:.1e}, gradients {self.whole:.1e}, worst parameter {self.worst:.1e}"


_FP32 = Distance(loss=1e-5, whole=1e-5, worst=1e-3)
"""The bound in float32, or twice the distance of one GPU's results with other micro-batches if that is larger."""


def check(shape: Shape, device: torch.device, workers: Workers, report: Report | None) -> None:
    """Checks DDP and FSDP2 in both precisions; all processes take part, and the first one reports."""
    small = device.type == "cpu"
    count, *sizes = (6, 3, 8, 32) if small else (12, 8, 64, 256)
    groups = _groups(shape, max(count, workers.size), *sizes)  # at least one for each process
    budget = sum(len(sequence) for group in groups for sequence in group) // 3
    torch.set_float32_matmul_precision("highest")
    model = _model(shape, device)
    one: dict[Precision, Step] = {name: _step(model, Workers(), groups, budget, name) for name in ("fp32", "bf16")}
    other_order = _distance(_step(model, Workers(), groups, budget // 2, "fp32"), one["fp32"])
    noise = _distance(one["bf16"], one["fp32"])
    exact = Distance(*(max(bound, 2 * own) for bound, own in zip(_FP32, other_order, strict=True)))
    bounds = {"fp32": exact, "bf16": Distance(max(2**-8, noise.loss), noise.whole, noise.worst)}
    del model
    if report is not None:
        print(f"  {shape.name}: one card in other micro-batches: {other_order}", flush=True)
        print(f"  {shape.name}: one card, bf16 against fp32: {noise}", flush=True)
    for way, kind in (("ddp", Replicated), ("fsdp2, step", GatheredOnce), ("fsdp2, layer", Sharded)):
        for precision, bound in bounds.items():
            several, model = kind(), _model(shape, device)
            several.prepare(model, precision)
            for graphs in (False, True) if precision == "bf16" and several.may_repeat and not small else (False,):
                step = _step(model, several, groups, budget, precision, graphs)
                found = _distance(step, one[precision])
                if report is not None:
                    label = f"{way}, {precision}{', CUDA graphs' if graphs else ''}"
                    within = all(value <= limit for value, limit in zip(found, bound, strict=True))
                    report.check(f"gradients {shape.name}, {label}", within and step.graphs == graphs, f"{found}")
                del step
            del several, model
    workers.wait()


def _groups(shape: Shape, count: int, size: int, shortest: int, longest: int) -> Groups:
    generator = np.random.default_rng(1)
    return [
        [
            generator.integers(10, shape.config["vocab_size"], generator.integers(shortest, longest + 1))
            for _ in range(size)
        ]
        for _ in range(count)
    ]


def _model(shape: Shape, device: torch.device) -> nn.Module:
    return packed_scorer(shape, device).eval()  # no dropout: each process would draw its own


def _step(
    model: nn.Module, workers: Workers, groups: Groups, budget: int, precision: Precision, graphs: bool = False
) -> Step:
    """One step from zero gradients; with graphs the third step, which replays its passes."""
    device = next(model.parameters()).device
    accumulator = Accumulator(model, LOSSES["cross_entropy"], precision, device, budget, workers)
    own = workers.share(groups)
    if graphs:
        longest = max(len(sequence) for group in groups for sequence in group)
        accumulator.use_graphs(len(groups[0]), len(own), longest)
    for _ in range(3 if graphs else 1):
        accumulator.clear()
        loss = accumulator(own, len(groups))
    whole = {name: gradient.clone() for name, gradient in workers.gradients(model).items()}
    used = accumulator.graphs is not None and accumulator.graphs.active
    workers.clear(model, set_to_none=not workers.keeps_gradients)
    return Step(loss.item(), whole, used)


def _distance(step: Step, reference: Step) -> Distance:
    apart = {name: (step.gradients[name] - gradient).norm().item() for name, gradient in reference.gradients.items()}
    norms = {name: gradient.norm().item() for name, gradient in reference.gradients.items()}
    whole = math.hypot(*norms.values())
    worst = max(apart[name] / norm for name, norm in norms.items() if norm > _SMALLEST * whole)
    return Distance(abs(step.loss - reference.loss), math.hypot(*apart.values()) / whole, worst)
