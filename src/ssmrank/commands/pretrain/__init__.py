"""`ssmrank pretrain`: pretrains language models; here are the options that its subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run` and `sweep`."""
    parser.add_argument("--settings", required=True, help="pretraining section with one of its models: JSON or a file")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of `ssmrank pretrain tokenizer`")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of `ssmrank pretrain tokens`")
    parser.add_argument(
        "--state", type=Path, required=True, help="folder of the state from which a killed pretraining resumes"
    )
    parser.add_argument(
        "--save-seconds", type=float, default=300.0, help="seconds between two saves of the state (default: 300)"
    )
    parser.add_argument(
        "--stop-seconds", type=float, help="save the state and stop after this many seconds; the same command resumes"
    )
