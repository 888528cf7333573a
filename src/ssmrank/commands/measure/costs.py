"""`ssmrank measure costs`: gathers the costs of a table's rerankers from the files of trainings and measurements."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ssmrank.config.cost_settings import CostSettings
from ssmrank.config.reading import read_settings
from ssmrank.io.atomic import atomic_file
from ssmrank.reporting.costs import gather_costs


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="rows and their files: JSON, or a file")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the texts for the rows and the sentence for the caption."""
    result = gather_costs(read_settings(CostSettings, arguments.settings))
    with atomic_file(arguments.output) as stream:
        stream.write(json.dumps(result, indent=2) + "\n")
