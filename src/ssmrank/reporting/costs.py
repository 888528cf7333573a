"""Costs of rerankers, as columns of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmrank.config.cost_settings import CostSettings
from ssmrank.errors import UserError

TITLES = ("Parameters", "Tokens", "Training")
"""Titles of the columns: number of weights, tokens of pretraining, seconds of training."""

SPEED_TITLES = ("pairs/s", "whole")
"""Titles of the columns of speed, with document reuse and without it."""


@dataclass(frozen=True)
class Costs:
    """Texts of rows by the name of their first run, and the sentence that explains the columns."""

    rows: Mapping[str, tuple[str, ...]]
    sentence: str
    titles: tuple[str, ...]

    def of(self, runs: Sequence[str]) -> tuple[str, ...]:
        """The texts of a row with these runs; empty texts for a row without costs."""
        return self.rows.get(runs[0], ("",) * len(self.titles)) if runs else ("",) * len(self.titles)


def gather_costs(settings: CostSettings) -> dict[str, Any]:
    """Column titles, texts of rows, and the caption's sentence, in the form that `read_costs` reads.

    Raises UserError where a file of the settings cannot be read.
    """
    rows, every_outcome, speeds = {}, [], []
    for row in settings.rows:
        pretraining = None if row.pretrained is None else _read(Path(row.pretrained) / "pretraining.json")
        outcomes = [_read(Path(folder) / "outcome.json") for folder in row.checkpoints]
        speed = None if row.speed is None else _read(Path(row.speed))
        rows[row.run] = cost_texts(pretraining, outcomes, speed)
        every_outcome += outcomes
        speeds += [] if speed is None else [speed]
    titles = TITLES + SPEED_TITLES if speeds else TITLES
    return {
        "titles": titles,
        "rows": {run: (*texts, *[""] * (len(titles) - len(texts))) for run, texts in rows.items()},
        "sentence": cost_sentence(every_outcome, speeds),
    }


def cost_texts(
    pretraining: Mapping[str, Any] | None, outcomes: Sequence[Mapping[str, Any]], speed: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """A row's texts.

    pretraining: contents of `pretraining.json`; None where the model was not pretrained here.
    outcomes: contents of `outcome.json` of the training with each seed; their mean time is shown.
    speed: what `ssmrank measure speed` wrote; None where speed is not shown.
    """
    counts = pretraining["parameters"] if pretraining else None
    seconds = [outcome["seconds"] for outcome in outcomes if outcome["status"] == "ok"]
    texts = (
        f"{counts['parameters'] / 1e6:.1f}M ({counts['non_embedding_parameters'] / 1e6:.2f}M)" if counts else "",
        f"{pretraining['curve']['tokens'] / 1e6:.0f}M" if pretraining else "",
        f"{sum(seconds) / len(seconds):.0f} s" if seconds else "",
    )
    if speed is None:
        return texts
    if speed.get("status") == "oom":
        return (*texts, "OOM", "OOM")
    return (
        *texts,
        f"{speed['reuse']['pairs_per_second']:,.0f}" if speed["reuse"] else "",
        f"{speed['whole']['pairs_per_second']:,.0f}",
    )


def cost_sentence(outcomes: Sequence[Mapping[str, Any]], speeds: Sequence[Mapping[str, Any]]) -> str:
    """The caption's sentence: what the columns are, and on which devices times were measured."""
    sentence = "Parameters: all, and without embeddings; Tokens: of pretraining"
    trained = " and ".join(sorted({outcome["device"] for outcome in outcomes}))
    if trained:
        sentence += f"; Training: time of this training alone, mean over seeds, on {trained}"
    speeds = [speed for speed in speeds if speed.get("status") != "oom"]
    if not speeds:
        return f"{sentence}."
    measured = " and ".join(sorted({speed["device"] for speed in speeds}))
    on = speeds[0]
    return (
        f"{sentence}; pairs/s: reranking {on['pairs']:,} pairs of {on['collection']} with document reuse, where the "
        f"model can, and whole: without, on {measured} in {on['precision']}."
    )


def read_costs(path: Path) -> Costs:
    """Reads what `ssmrank measure costs` wrote. Raises UserError where it is not such a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = {run: tuple(texts) for run, texts in values["rows"].items()}
        return Costs(rows, values["sentence"], tuple(values["titles"]))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: was not written by `ssmrank measure costs` ({error})") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make it again with the workflow") from error
