"""What a plan prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ssmrank.planning.dag import PlannedJob
from ssmrank.planning.estimate import Estimate, Estimator
from ssmrank.planning.memory import training_bytes
from ssmrank.planning.speeds import SHORT

OPEN = "?"
"""In place of a number that is not known."""

MORE = ">"
"""Before a sum that lacks some numbers."""

PASS_TOKENS = 16384
"""Of the trainings whose speed is shown; the default of `token_budget`."""

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def counts(jobs: Sequence[PlannedJob]) -> str:
    """The number of jobs of each rule, as Markdown."""
    rows = [[rule, f"{count:,}"] for rule, count in sorted(Counter(job.rule for job in jobs).items())]
    return _table(["job", "count"], [*rows, ["total", f"{len(jobs):,}"]])


def costs(jobs: Sequence[PlannedJob], estimator: Estimator) -> str:
    """Jobs by rule with what they take, then the speeds that this follows from, as Markdown."""
    found: dict[str, list[Estimate]] = {}
    for job in sorted(jobs, key=lambda job: estimator.place(job.rule)):
        found.setdefault(job.rule, []).append(estimator.estimate(job))
    rows = [[rule, f"{len(estimates):,}", *_cells(estimates)] for rule, estimates in found.items()]
    rows.append(["total", f"{len(jobs):,}", *_cells([one for estimates in found.values() for one in estimates])])
    header = ["job", "count", "tokens", "computed", "GPU hours", "CPU hours", "disk"]
    note = (
        f"Hours of one {estimator.speeds.device} in bf16, and of two CPU cores. {OPEN}: not measured, or not known "
        f"before a download. {MORE}: without what is not known."
    )
    parts = [_table(header, rows), note, _memory(jobs, estimator), _speeds(jobs, estimator)]
    return "\n\n".join(filter(None, parts))


def _memory(jobs: Sequence[PlannedJob], estimator: Estimator) -> str:
    """What trainings need whose weights or moments are not all in float32; the others' need follows from the size."""
    rows, params = [], estimator.params
    for job in jobs:
        if job.rule == "train":
            section, model = params.training(job.wildcards["training"]), params.models[job.wildcards["model"]]
            if section.lora is not None or section.optimizer_states != "float32":
                rows.append([job.wildcards["training"], model.label, _cell([training_bytes(section, model)], _bytes)])
    note = (
        "Memory of each GPU in training, in bf16 and without activations: weights, gradients and AdamW's moments. "
        "Adapters count as those of all linear layers of a decoder of this size."
    )
    return f"{_table(['training', 'model', 'memory'], rows)}\n\n{note}" if rows else ""


def _cells(estimates: Sequence[Estimate]) -> list[str]:
    columns = list(zip(*(one.values for one in estimates), strict=True))
    shown: list[Callable[[float], str]] = [_number, _number, _hours, _hours, _bytes]
    return [_cell(column, show) for column, show in zip(columns, shown, strict=True)]


def _cell(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return show(sum(known))
    shown = show(sum(known))
    return f"{MORE} {shown}" if shown and not shown.startswith("<") else OPEN


def _speeds(jobs: Sequence[PlannedJob], estimator: Estimator) -> str:
    rows, speeds = [], estimator.speeds
    for name in estimator.models(jobs):
        model = estimator.params.models[name]
        origin = speeds.origin(model)
        rows.append([model.label, model.size, _speed(speeds.equal(model)), origin.inference])
        rows[-1] += [_speed(speeds.training(model, SHORT, PASS_TOKENS)), origin.training]
    header = ["model", "size", "inference, tokens/s", "", "training, tokens/s", ""]
    note = f"Speeds: inference on sequences of {SHORT} tokens, training with {PASS_TOKENS:,} tokens in a pass."
    return f"{note}\n\n{_table(header, rows)}" if rows else ""


def _speed(value: float | None) -> str:
    return OPEN if value is None else _number(value)


def _number(value: float, unit: str = "") -> str:
    """Three digits with a power of 1,000; empty for 0."""
    for size, prefix in _UNITS:
        if value >= size:
            scaled = value / size
            return f"{scaled:.{0 if scaled >= 99.5 else 1 if scaled >= 9.95 else 2}f} {prefix}{unit}"
    return f"{value:.0f} {unit}".strip() if value else ""


def _bytes(value: float) -> str:
    return _number(value, "B")


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 99.5 else f"{hours:.1f}" if hours >= 0.05 else "< 0.1" if hours else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; columns are as wide as their longest cell, numbers are at the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    words = [header.index(name) == 0 or name in ("", "size", "model") for name in header]

    def line(cells: Sequence[str]) -> str:
        parts = [c.ljust(w) if left else c.rjust(w) for c, w, left in zip(cells, widths, words, strict=True)]
        return f"| {' | '.join(parts)} |"

    rule = [("-" * width if left else "-" * (width - 1) + ":") for width, left in zip(widths, words, strict=True)]
    return "\n".join([line(header), f"| {' | '.join(rule)} |", *map(line, rows)])
