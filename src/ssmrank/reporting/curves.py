"""A figure of training curves: loss, and the metric of held-out queries where a training has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssmrank.errors import UserError
from ssmrank.io.files import read_text
from ssmrank.reporting.plotting import plotting, save

_LARGEST = 2**28
"""Bytes that no file of a training's course has."""


@dataclass(frozen=True)
class Curve:
    """What a training's checkpoint says of its course; empty where memory ran out."""

    label: str
    loss: list[float]
    validation: list[tuple[int, float]]


def read_curve(label: str, checkpoint: Path) -> Curve:
    """From outcome.json; raises UserError where the folder is no checkpoint."""
    path = checkpoint / "outcome.json"
    try:
        outcome = json.loads(read_text(path, _LARGEST))
        validation = [(int(step), float(value)) for step, value in outcome.get("validation", [])]
        return Curve(label, [float(loss) for loss in outcome.get("loss", [])], validation)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: tells no course of a training ({error}); train again") from error


def smoothed(values: list[float]) -> list[float]:
    """The mean over the last fiftieth of all steps at each step: a curve of losses is noise otherwise."""
    window = max(1, len(values) // 50)
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return ((sums[ends] - sums[starts]) / (ends - starts)).tolist()


def draw_curves(curves: list[Curve], title: str, outputs: list[Path]) -> None:
    """A line for each training, in one panel for the loss and one for validation where there is any."""
    validated = any(curve.validation for curve in curves)
    with plotting() as pyplot:
        colours = pyplot.get_cmap("tab10" if len(curves) <= 10 else "tab20").colors
        figure, axes = pyplot.subplots(
            1, 1 + validated, figsize=(5.6 + 3.4 * validated, 3.4), layout="constrained", squeeze=False
        )
        for number, curve in enumerate(curves):
            dashed = "-" if number < 20 else "--"
            style = {"color": colours[number % len(colours)], "linewidth": 1.2, "linestyle": dashed}
            values = smoothed(curve.loss)
            label = curve.label if values else f"{curve.label} (OOM)"
            axes[0][0].plot(range(1, len(values) + 1), values, label=label, **style)
            if curve.validation:
                axes[0][1].plot(*zip(*curve.validation, strict=True), marker="o", markersize=3, **style)
        axes[0][0].set_ylabel("loss")
        if validated:
            axes[0][1].set_ylabel("metric of held-out queries")
        for place in axes[0]:
            place.set_xlabel("optimizer step")
            place.grid(alpha=0.3)
            place.tick_params(labelsize=8)
        figure.suptitle(title, fontsize=9)
        figure.legend(loc="outside right upper", fontsize=7, frameon=False)
        save(figure, outputs)
