"""`ssmrank params digest`: prints the path and SHA-256 of files, as params.yaml takes them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from ssmrank.errors import UserError
from ssmrank.io.checksum import sha256


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="runs, archives, or files of a collection's folder")


def run(arguments: argparse.Namespace) -> None:
    """Prints a line for each file in the form that retrievers of `kind: run` take."""
    for file in arguments.files:
        if not Path(file).is_file():
            raise UserError(f"{file}: no such file; give paths of existing files")
        line = {"path": file, "sha256": sha256(file)}
        yaml.safe_dump(
            line, sys.stdout, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
        )
