"""The efficiency figure: a reranker's quality against its speed, with document reuse and without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from ssmrank.config.cost_settings import EfficiencySettings
from ssmrank.config.reading import check
from ssmrank.errors import UserError
from ssmrank.io.plain import read_json
from ssmrank.reporting.plotting import plotting, save
from ssmrank.reporting.results import read_result


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
    """A reranker: its metric's mean, its pairs a second without reuse, and with it where it can."""

    label: str
    quality: float
    whole: float
    reuse: float | None


def read_speed(path: Path) -> tuple[float, float | None, str]:
    """Pairs a second without and with reuse, and where they were measured; raises UserError where that fails."""
    values = read_json(path, "run `ssmrank measure speed` to make it")
    speed = check(_Speed, values, str(path))
    reuse = None if speed.reuse is None else speed.reuse.pairs_per_second
    return speed.whole.pairs_per_second, reuse, f"{speed.device}, {speed.precision}"


def read_points(settings: EfficiencySettings) -> tuple[list[Point], str]:
    """The points of the rerankers that did not run out of memory, and the caption, which says where they were measured.

    Raises UserError where metrics lack the settings' metric.
    """
    points, places = [], set()
    for row in settings.rows:
        result = read_result(Path(row.metrics))
        if result.status == "oom":
            continue
        if settings.metric not in result.mean:
            raise UserError(f"{row.metrics}: holds no {settings.metric}; add it to evaluation.metrics")
        whole, reuse, measured = read_speed(Path(row.speed))
        points.append(Point(row.label, result.mean[settings.metric], whole, reuse))
        places.add(measured)
    return points, f"{settings.title}. {'; '.join(sorted(places))}"


def draw_efficiency(points: list[Point], metric: str, caption: str, output: Path) -> None:
    """A line from each reranker's speed without reuse (hollow) to that with it (filled), as PDF."""
    with plotting() as pyplot:
        from matplotlib.ticker import LogLocator

        figure, axes = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
        colours = pyplot.get_cmap("tab20" if len(points) > 10 else "tab10").colors
        for place, point in enumerate(points):
            colour = colours[place % len(colours)]
            axes.plot(point.whole, point.quality, "o", markerfacecolor="none", color=colour, label=point.label)
            if point.reuse is not None:
                axes.plot([point.whole, point.reuse], [point.quality] * 2, "-", color=colour, linewidth=1)
                axes.plot(point.reuse, point.quality, "o", color=colour)
        axes.set_xlabel("pairs/s (hollow: every pair whole; filled: with document reuse)")
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        axes.set_title(caption, fontsize=8)
        speeds = [speed for point in points for speed in (point.whole, point.reuse) if speed is not None]
        narrow = max(speeds, default=1) < 4 * min(speeds, default=1)
        axes.set_xscale("log", subs=[])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if narrow else (1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside right upper", fontsize=7, frameon=False)
        save(figure, [output])
