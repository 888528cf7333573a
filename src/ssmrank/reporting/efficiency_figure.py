"""The efficiency figure: quality of rerankers against speed, with document reuse and without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ssmrank.config.cost_settings import EfficiencySettings
from ssmrank.config.reading import check
from ssmrank.errors import UserError
from ssmrank.io.plain import read_json
from ssmrank.reporting.plotting import plotting, save
from ssmrank.reporting.point_labels import Box, is_far, nearest, place_labels
from ssmrank.reporting.results import read_result

_COLOUR, _TEXT = "C0", "0.25"
_MARK = 5.0
"""Diameter of a mark in points (1/72 inch)."""


class _Way(BaseModel):
    pairs_per_second: float


class _Speed(BaseModel):
    """What `ssmrank measure speed` writes, as far as the figure needs it."""

    whole: _Way
    reuse: _Way | None
    device: str
    precision: str


@dataclass(frozen=True)
class Point:
    """A reranker: the metric's mean, and pairs per second without reuse (`whole`) and with it (None: it cannot)."""

    label: str
    quality: float
    whole: float
    reuse: float | None

    @property
    def speeds(self) -> list[float]:
        """The speeds that it has."""
        return [self.whole] if self.reuse is None else [self.whole, self.reuse]


def read_speed(path: Path) -> tuple[float, float | None, str]:
    """Reads pairs per second without and with reuse, and the "device, precision" of the measurement.

    Raises UserError where it is no file of `ssmrank measure speed`.
    """
    values = read_json(path, "run `ssmrank measure speed` to make it")
    speed = check(_Speed, values, str(path))
    reuse = None if speed.reuse is None else speed.reuse.pairs_per_second
    return speed.whole.pairs_per_second, reuse, f"{speed.device}, {speed.precision}"


def read_points(settings: EfficiencySettings) -> tuple[list[Point], str]:
    """The points of the rerankers that did not run out of memory, and the caption with title, devices and precisions.

    Raises UserError where a metrics file lacks the settings' metric.
    """
    points, places = [], set()
    for row in settings.rows:
        result = read_result(Path(row.metrics))
        if result.status == "oom":
            continue
        if settings.metric not in result.mean:
            raise UserError(f"{row.metrics}: has no {settings.metric}; add it to evaluation.metrics")
        whole, reuse, measured = read_speed(Path(row.speed))
        points.append(Point(row.label, result.mean[settings.metric], whole, reuse))
        places.add(measured)
    return points, f"{settings.title}. {'; '.join(sorted(places))}"


def draw_efficiency(points: list[Point], metric: str, caption: str, output: Path) -> None:
    """Draws for each reranker a line from its speed without reuse (hollow) to that with it (filled), with its name."""
    with plotting() as pyplot:
        from matplotlib.ticker import LogLocator

        figure, axes = pyplot.subplots(figsize=(7.2, 3.6 + 0.06 * max(0, len(points) - 10)), layout="constrained")
        for point in points:
            speeds = point.speeds
            axes.plot(speeds, [point.quality] * len(speeds), "-", color=_COLOUR, linewidth=1)
            axes.plot(point.whole, point.quality, "o", color=_COLOUR, markerfacecolor="white", markersize=_MARK)
            if point.reuse is not None:
                axes.plot(point.reuse, point.quality, "o", color=_COLOUR, markersize=_MARK)
        axes.set_xlabel("pairs/s (hollow: every pair whole; filled: with document reuse)")
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        axes.set_title(caption, fontsize=8)
        axes.margins(0.12, 0.1)
        speeds = [speed for point in points for speed in point.speeds]
        narrow = max(speeds, default=1) < 4 * min(speeds, default=1)
        axes.set_xscale("log", subs=[])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if narrow else (1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        _label(figure, axes, points)
        save(figure, [output])


def _label(figure: Any, axes: Any, points: list[Point]) -> None:
    """Writes each point's name at its faster end, with a thin line to it where the two are far apart."""
    figure.draw_without_rendering()  # the layout, and so the points' pixels, are not known before
    figure.set_layout_engine("none")
    ends = [axes.transData.transform([(speed, point.quality) for speed in point.speeds]) for point in points]
    style = {"transform": axes.transAxes, "va": "bottom", "fontsize": 7, "color": _TEXT}
    texts = [axes.text(0, 0, point.label, **style) for point in points]
    extents = [text.get_window_extent() for text in texts]
    radius = _MARK * figure.dpi / 72
    marks = [
        Box(x.min() - radius, y.min() - radius, x.max() + radius, y.max() + radius) for x, y in (end.T for end in ends)
    ]
    frame = Box(*axes.bbox.extents)
    anchors = [(float(end[:, 0].max()), float(end[0, 1])) for end in ends]
    boxes = place_labels(anchors, [(extent.width, extent.height) for extent in extents], marks, frame)
    for text, box, anchor in zip(texts, boxes, anchors, strict=True):
        text.set_position(axes.transAxes.inverted().transform((box.left, box.bottom)))
        if is_far(box, anchor):
            line = axes.transData.inverted().transform([anchor, nearest(box, anchor)])
            axes.plot(*line.T, color=_TEXT, linewidth=0.4, zorder=1)
