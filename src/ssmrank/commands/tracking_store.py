"""`ssmrank tracking-store`: creates MLflow's store and copies the journals of jobs into it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.tracking.journal import EXPERIMENT, URI
from ssmrank.tracking.store import create, deliver


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--journals", type=Path, help="folder of the journals to copy into the store")


def run(arguments: argparse.Namespace) -> None:
    """Creates the store that MLFLOW_TRACKING_URI names, or delivers the journals of a given folder to it."""
    uri = os.environ.get(URI)
    if not uri:
        raise UserError(f"{URI} is not set; set it, for example to sqlite:///mlflow.db")
    experiment = os.environ.get(EXPERIMENT, "ssmrank")
    if arguments.journals is None:
        create(uri, experiment)
    else:
        deliver(arguments.journals, uri, experiment)
