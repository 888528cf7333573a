"""Measured speeds of architectures, and speeds of other sizes and architectures that follow from them.

Speeds are those of one GPU in bf16, in tokens per second that the model computes. The rules:

- Between two measured sizes of an architecture, the logarithm of the speed is linear in the logarithm of the number
  of parameters. Above the largest size, twice the parameters are half the speed; below the smallest, speed is constant.
- An architecture that was not measured has the speed of BERT (encoders), BART (encoder-decoders) or OPT (decoders).
- Training was measured at one size: training is slower than inference by the same factor at every size. The factor
  depends on the tokens in a pass, as measured (linear in their logarithm).
- From 512 to 1,536 tokens, inference is linear in the length. Training changes with length as inference does.
- Real texts, and documents that are computed once for all of their queries, are computed at other rates than equal
  sequences: by the geometric mean of the measured ratios of the architecture, or else of all architectures.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ssmrank.config.models import Model
from ssmrank.errors import UserError

Curve = Sequence[tuple[float, float]]
"""Points of a curve, by their first number."""

MEASURED = {
    "BERT-base": ("BERT", 110e6),
    "BERT-large": ("BERT", 330e6),
    "BART-large": ("BART", 385e6),
    "OPT-125M": ("OPT", 125e6),
    "OPT-350M": ("OPT", 350e6),
    "OPT-1.3B": ("OPT", 1.3e9),
    "Llama-3.2-1B": ("Llama", 1.3e9),
    "Mamba-1-130M": ("Mamba-1", 130e6),
    "Mamba-1-370M": ("Mamba-1", 370e6),
    "Mamba-1-1.4B": ("Mamba-1", 1.4e9),
    "Mamba-2-130M": ("Mamba-2", 130e6),
    "Mamba-2-370M": ("Mamba-2", 370e6),
    "Mamba-2-1.3B": ("Mamba-2", 1.3e9),
}
"""Architecture and parameters (the paper's Table 1) of the models in files of measurements."""

OF_KIND = {"E": "BERT", "ED": "BART", "D": "OPT"}
"""The architecture whose speed stands for others of its kind."""

SHORT, LONG = 512, 1536
"""Lengths at which inference was measured."""


def parameters(size: str) -> float | None:
    """The number that a size such as 110M or 1.3B says; None if it says none."""
    found = re.fullmatch(r"([0-9.]+)([KMB])", size)
    return float(found[1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[found[2]] if found else None


class Origin(NamedTuple):
    """Where the speeds of a model come from, in words."""

    inference: str
    training: str


class Speeds:
    """Tokens per second of any model."""

    def __init__(self, folder: Path) -> None:
        rows = [row for name in ("reranking-h200.csv", "training-h200.csv") for row in _rows(folder / name)]
        self._short = _by_size(row for row in rows if _is(row, "shapes", length=SHORT))
        self._long = _by_size(row for row in rows if _is(row, "shapes", length=LONG))
        self._training: dict[str, tuple[float, Curve]] = {}
        for row in rows:
            if _is(row, "figure1"):
                architecture, size = MEASURED[row["model"]]
                _, curve = self._training.get(architecture, (size, []))
                self._training[architecture] = size, sorted([*curve, (float(row["tokens"]), _speed(row))])
        self._texts = self._ratios(row for row in rows if _is(row, "", "ssmrank, no reuse"))
        self._shared = self._ratios(row for row in rows if _is(row, "", "ssmrank, reuse"))
        self.device = next((row["device"] for row in rows if _is(row, "shapes", length=SHORT)), "")
        """The GPU that was measured."""
        if not self._short or not self._training:
            raise UserError(
                f"{folder}: has no speeds of reranking and training; give a folder such as benchmarks/results"
            )

    def origin(self, model: Model) -> Origin:
        """Where a model's speeds come from."""
        size, architecture = parameters(model.size), self._architecture(model)
        own = architecture == _own_architecture(model.label)
        points = [point for point, _ in self._short[architecture]]
        like = "" if own else f", as {architecture}"
        if size is None:
            return Origin("no size", "no size")
        way = "interpolated" if points[0] <= size <= points[-1] else "extrapolated"
        trained = own and architecture in self._training and self._training[architecture][0] == size
        return Origin(
            "measured" if own and size in points else f"{way}{like}",
            "measured" if trained else f"from inference{like}",
        )

    def _architecture(self, model: Model) -> str:
        """The measured architecture whose speed a model has."""
        own = _own_architecture(model.label)
        return own if own in self._short else OF_KIND[model.kind]

    def equal(self, model: Model, length: float = SHORT) -> float | None:
        """Inference on sequences of this length; None where the model has no size."""
        size, architecture = parameters(model.size), self._architecture(model)
        return None if size is None else self._inference(architecture, size, length)

    def inference(self, model: Model, length: float, computed_share: float = 1.0) -> float | None:
        """Inference on real texts of this mean length, of whose tokens only a share is computed."""
        speed, architecture = self.equal(model, length), self._architecture(model)
        if speed is None:
            return None
        texts = self._texts.get(architecture, _mean(self._texts.values()))
        shared = self._shared.get(architecture, _mean(self._shared.values()))
        return speed * texts**computed_share * shared ** (1 - computed_share)

    def training(self, model: Model, length: float, pass_tokens: float) -> float | None:
        """Training on sequences of this mean length, with so many tokens in a pass."""
        size, architecture = parameters(model.size), self._architecture(model)
        if size is None:
            return None
        like = architecture if architecture in self._training else OF_KIND[model.kind]
        like = like if like in self._training else "BERT"
        at, curve = self._training[like]
        slower = interpolated(curve, pass_tokens, log_x=True) / self._inference(like, at, SHORT)
        return self._inference(architecture, size, length) * slower

    def _inference(self, architecture: str, size: float, length: float) -> float:
        short = by_size(self._short[architecture], size)
        if architecture not in self._long:
            return short
        # Not all sizes need to have been measured at both lengths.
        slower = by_size(self._long[architecture], size) / short
        return short * interpolated([(SHORT, 1.0), (LONG, slower)], length)

    def _ratios(self, rows: Iterable[Mapping[str, str]]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for row in rows:
            architecture, size = MEASURED[row["model"]]
            speed = float(row["computed"]) / float(row["seconds"])
            found.setdefault(architecture, []).append(speed / self._inference(architecture, size, SHORT))
        return {architecture: _mean(ratios) for architecture, ratios in found.items()}


def by_size(points: Curve, size: float) -> float:
    """A speed at this size: linear in logarithms, constant below the points, inverse to the size above them."""
    largest, speed = points[-1]
    if size > largest:
        return speed * largest / size
    return math.exp(interpolated([(x, math.log(y)) for x, y in points], size, log_x=True))


def interpolated(points: Curve, x: float, log_x: bool = False) -> float:
    """Linear between points and constant beyond them; with `log_x` in the logarithm of x."""
    scale = math.log if log_x else float
    for (left, low), (right, high) in pairwise(points):
        if left <= x <= right:
            return low + (high - low) * (scale(x) - scale(left)) / (scale(right) - scale(left))
    return points[0][1] if x < points[0][0] else points[-1][1]


def _own_architecture(label: str) -> str | None:
    """The measured architecture with whose name a label begins."""
    names = {architecture for architecture, _ in MEASURED.values()}
    return next((name for name in names if re.match(rf"{re.escape(name)}(?![A-Za-z0-9])", label)), None)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; give the folder of measurements (--speeds)") from error


def _is(row: Mapping[str, Any], benchmark: str, implementation: str = "ssmrank", length: int | None = None) -> bool:
    return (
        (row["benchmark"] == benchmark if benchmark else not row["benchmark"].startswith("endtoend"))
        and row["implementation"] == implementation
        and row["precision"] == "bf16"
        and row["model"] in MEASURED
        and (length is None or row.get("max_length") == str(length))
    )


def _speed(row: Mapping[str, str]) -> float:
    return float(row["tokens"]) / float(row["seconds"])


def _by_size(rows: Iterable[Mapping[str, str]]) -> dict[str, Curve]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        architecture, size = MEASURED[row["model"]]
        found.setdefault(architecture, []).append((size, _speed(row)))
    return {architecture: sorted(points) for architecture, points in found.items()}


def _mean(ratios: Iterable[float]) -> float:
    """The geometric mean; 1 of none."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0
