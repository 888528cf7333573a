"""`ssmrank measure costs`: what the rerankers of a table cost, gathered from what made and measured them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ssmrank.config.cost_settings import CostSettings
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.reporting.costs import SPEED_TITLES, TITLES, cost_sentence, cost_texts
from ssmrank.tracking import track


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="rows and their files: JSON, or a file")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the texts of the rows and the sentence of the caption."""
    rows, every_outcome, speeds = {}, [], []
    for row in read_settings(CostSettings, arguments.settings).rows:
        pretraining = None if row.pretrained is None else _read(Path(row.pretrained) / "pretraining.json")
        outcomes = [_read(Path(folder) / "outcome.json") for folder in row.checkpoints]
        speed = None if row.speed is None else _read(Path(row.speed))
        rows[row.run] = cost_texts(pretraining, outcomes, speed)
        every_outcome += outcomes
        speeds += [] if speed is None else [speed]
    titles = TITLES + SPEED_TITLES if speeds else TITLES
    result = {
        "titles": titles,
        "rows": {run: (*texts, *[""] * (len(titles) - len(texts))) for run, texts in rows.items()},
        "sentence": cost_sentence(every_outcome, speeds),
    }
    tags = {"table": arguments.output.stem}
    with track("costs", tags["table"], tags, {"rows": len(rows)}), atomic_file(arguments.output) as stream:
        stream.write(json.dumps(result, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make it again with the workflow") from error
