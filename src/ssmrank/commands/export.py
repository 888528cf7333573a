"""`ssmrank export`: writes a checkpoint as a folder that another library reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.export.formats import FORMATS, export


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder that `ssmrank train` wrote")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new folder")
    parser.add_argument("--format", required=True, choices=FORMATS, help="transformers and onnx: encoders only")
    parser.add_argument(
        "--without-code",
        action="store_true",
        help="sentence-transformers: no file of code, even if some texts become other tokens",
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the folder."""
    if arguments.without_code and arguments.format != "sentence-transformers":
        raise UserError(f"--without-code: format {arguments.format} never has code; leave it out")
    export(arguments.checkpoint, arguments.folder, arguments.format, arguments.without_code)
