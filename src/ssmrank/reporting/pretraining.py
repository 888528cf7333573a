"""The figure of pretrainings: loss on held-out text against tokens read, a line for each model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.plain import read_json
from ssmrank.reporting.plotting import plotting, save


def read_curves(models: Iterable[tuple[str, Path]]) -> dict[str, list[tuple[int, float]]]:
    """Reads the (tokens read, loss) pairs of each model, given as (label, folder), by label.

    Raises UserError where a folder is not from `ssmrank pretrain run`.
    """
    curves = {}
    for label, folder in models:
        path = folder / "pretraining.json"
        facts = read_json(path, "make it with `ssmrank pretrain run`")
        try:
            label = f"{label} (masked tokens)" if facts["objective"] == "masked tokens" else label
            curves[label] = [(tokens, loss) for _, tokens, loss in facts["curve"]["held_out"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: was not written by `ssmrank pretrain run` ({error})") from error
    return curves


def draw_curves(curves: Mapping[str, Sequence[tuple[int, float]]], output: Path) -> None:
    """Draws loss (nats a predicted token) against millions of tokens read, a line for each label."""
    with plotting() as pyplot:
        figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
        for label, points in curves.items():
            tokens, losses = zip(*points, strict=True)
            axes.plot([count / 1e6 for count in tokens], losses, label=label, marker="o", markersize=3)
        axes.set_xlabel("tokens read (millions)")
        axes.set_ylabel("loss on held-out text (nats a predicted token)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, frameon=False)
        save(figure, [output])
