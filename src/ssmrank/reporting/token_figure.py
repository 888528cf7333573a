"""The figure of tokens: quality of rerankers against the tokens that they read for a pair, and what reuse saves."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ssmrank.config.cost_settings import TokenFigureSettings, TokenRow
from ssmrank.config.reading import check
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.io.plain import read_json
from ssmrank.reporting.plotting import plotting, save
from ssmrank.reporting.results import read_result

_MARKS = "osD^vPX*"
_COLUMNS = 3
_PANEL, _ENTRY = 2.35, 1.15
"""Widths of a panel and of an entry of the legend, in inches."""
_GREY = "0.45"


class _Counts(BaseModel):
    """What `ssmrank measure tokens` writes."""

    pairs: int
    tokens: int
    computed: int
    shortened: int
    order: str


@dataclass(frozen=True)
class TokenPoint:
    """A reranker.

    quality: the metric's mean over tests and seeds; spread: its standard deviation over seeds, None for one seed;
    tokens, computed: of a pair, without and with reuse; shortened: share of pairs that lack a part of their document.
    """

    model: str
    training: str
    order: str
    quality: float
    spread: float | None
    tokens: float
    computed: float
    shortened: float

    @property
    def saved(self) -> float:
        """The share of tokens that reuse saves."""
        return 1 - self.computed / self.tokens


@dataclass(frozen=True)
class TokenFigure:
    """What the figure shows; first_stage: its name and quality, None if it is not shown."""

    title: str
    metric: str
    points: list[TokenPoint]
    first_stage: tuple[str, float] | None


def read_token_figure(settings: TokenFigureSettings) -> TokenFigure:
    """Reads the points of the rerankers that did not run out of memory.

    Raises UserError where a file is missing, lacks the settings' metric, or is none of `ssmrank measure tokens`, and if
    no reranker is left.
    """
    points = [point for row in settings.rows if (point := _point(row, settings.metric)) is not None]
    if not points:
        raise UserError("every reranker of the table ran out of memory; there are no tokens to draw")
    first = None
    if settings.first_stage_metrics:
        first = settings.first_stage, _quality(settings.first_stage_metrics, settings.metric)
    return TokenFigure(settings.title, settings.metric, points, first)


def draw_tokens(figure: TokenFigure, outputs: Sequence[Path]) -> None:
    """Draws a panel for each model: a line from all tokens of a pair (hollow) to those with reuse (filled)."""
    models = list(dict.fromkeys(point.model for point in figure.points))
    trainings = list(dict.fromkeys(point.training for point in figure.points))
    columns = min(len(models), _COLUMNS)
    rows, width = math.ceil(len(models) / columns), max(_PANEL * columns, 4.0)
    with plotting() as pyplot:
        drawn, axes = pyplot.subplots(
            rows, columns, figsize=(width, 2.2 * rows + 0.7), layout="constrained", sharex=True, sharey=True,
            squeeze=False,
        )  # fmt: skip
        for place, panel in enumerate(axes.flat):
            if place >= len(models):
                panel.set_axis_off()
                continue
            chosen = [point for point in figure.points if point.model == models[place]]
            _panel(panel, models[place], chosen, trainings, figure.first_stage)
            if place + columns >= len(models):
                panel.set_xlabel("tokens of a pair", fontsize=8)
                panel.tick_params(labelbottom=True)
        for first in axes[:, 0]:
            first.set_ylabel(figure.metric, fontsize=8)
        axes[0, 0].set_xlim(left=0)
        drawn.suptitle(f"{figure.title}. Hollow: read whole; filled: computed with reuse", fontsize=8)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        across = min(len(labels), int(width / _ENTRY))
        drawn.legend(handles, labels, loc="outside lower center", ncols=across, fontsize=7, frameon=False)
        save(drawn, outputs)


def _panel(
    panel: Any, model: str, points: list[TokenPoint], trainings: list[str], first_stage: tuple[str, float] | None
) -> None:
    for number, training in enumerate(trainings):
        mark, colour = _MARKS[number % len(_MARKS)], f"C{number}"
        # The legend has every training, also one that this model lacks.
        panel.plot([], [], mark, color=colour, markersize=5, label=training)
        for point in points:
            if point.training != training:
                continue
            panel.plot([point.tokens, point.computed], [point.quality] * 2, "-", color=colour, linewidth=1, zorder=1)
            panel.errorbar(point.computed, point.quality, yerr=point.spread, color=colour, linewidth=0.8, capsize=2)
            panel.plot(point.tokens, point.quality, mark, color=colour, markerfacecolor="white", markersize=5)
            panel.plot(point.computed, point.quality, mark, color=colour, markersize=5)
    if first_stage is not None:
        name, quality = first_stage
        panel.axhline(quality, color=_GREY, linestyle="--", linewidth=0.8, zorder=0, label=name)
    panel.set_title(model, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)


def write_points(figure: TokenFigure, output: Path) -> None:
    """Writes the points as CSV, after the first stage: quality times 100, tokens of a pair, shares in percent."""
    with atomic_file(output) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            ["model", "training", "order", "metric", "quality", "spread", "tokens", "computed", "saved", "shortened"]
        )
        if figure.first_stage is not None:
            name, quality = figure.first_stage
            writer.writerow([name, "", "", figure.metric, f"{100 * quality:.2f}", *[""] * 5])
        for point in figure.points:
            spread = "" if point.spread is None else f"{100 * point.spread:.2f}"
            numbers = [f"{100 * point.quality:.2f}", spread, f"{point.tokens:.1f}", f"{point.computed:.1f}"]
            shares = [f"{100 * share:.1f}" for share in (point.saved, point.shortened)]
            writer.writerow([point.model, point.training, point.order, figure.metric, *numbers, *shares])


def _point(row: TokenRow, metric: str) -> TokenPoint | None:
    """A row's point; None if it ran out of memory."""
    files = [path for paths in row.metrics for path in paths]
    if any(read_result(Path(path)).status == "oom" for path in files):
        return None
    qualities = [_quality(paths, metric) for paths in row.metrics]
    hint = "run `ssmrank measure tokens` to make it"
    counts = [check(_Counts, read_json(Path(path), hint), path) for path in row.tokens]
    pairs = sum(count.pairs for count in counts)
    return TokenPoint(
        row.model,
        row.training,
        counts[0].order,
        statistics.fmean(qualities),
        statistics.stdev(qualities) if len(qualities) > 1 else None,
        sum(count.tokens for count in counts) / pairs,
        sum(count.computed for count in counts) / pairs,
        sum(count.shortened for count in counts) / pairs,
    )


def _quality(paths: Sequence[str], metric: str) -> float:
    """The unweighted mean over tests."""
    values = []
    for path in paths:
        result = read_result(Path(path))
        if metric not in result.mean:
            raise UserError(f"{path}: has no {metric}; add it to evaluation.metrics")
        values.append(result.mean[metric])
    return statistics.fmean(values)
