"""A figure of training curves: the loss, and the metric on held-out queries if the trainings have it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssmrank.errors import UserError
from ssmrank.io.files import read_text
from ssmrank.reporting.plotting import plotting, save

_LARGEST = 2**28
"""Bytes of the largest outcome.json that is read; none of a training comes near."""


@dataclass(frozen=True)
class Curve:
    """The course of a training: the loss of each step, and (step, metric) of validations; empty after OOM."""

    label: str
    loss: list[float]
    validation: list[tuple[int, float]]


def read_curve(label: str, checkpoint: Path) -> Curve:
    """Reads a checkpoint's outcome.json. Raises UserError where the folder is no checkpoint."""
    path = checkpoint / "outcome.json"
    try:
        outcome = json.loads(read_text(path, _LARGEST))
        validation = [(int(step), float(value)) for step, value in outcome.get("validation", [])]
        return Curve(label, [float(loss) for loss in outcome.get("loss", [])], validation)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: has no loss curve of a training ({error}); train again") from error


def smoothed(values: list[float]) -> list[float]:
    """The moving mean over a window of a fiftieth of all steps; single losses are too noisy to show a trend."""
    window = max(1, len(values) // 50)
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return ((sums[ends] - sums[starts]) / (ends - starts)).tolist()


def draw_curves(curves: list[Curve], title: str, outputs: list[Path]) -> None:
    """Draws a line for each training, in a panel for the loss and one for validation if any training has it."""
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
