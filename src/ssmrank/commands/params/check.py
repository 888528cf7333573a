"""`ssmrank params check`: checks params.yaml and overlays, read as data alone."""

from __future__ import annotations

import argparse

from ssmrank.config.params import read_params


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="overlays, in the order of --configfile")
    parser.add_argument("--params", default="params.yaml", help="file that the overlays change (default: params.yaml)")


def run(arguments: argparse.Namespace) -> None:
    """Prints that the files are valid together; raises UserError if they are not, or contain code."""
    files = list(dict.fromkeys([arguments.params, *arguments.files]))
    read_params(*files)
    print(f"{' + '.join(files)}: valid: no code, no unknown keys, no values out of range")
