"""`ssmrank pretrain tokens`: tokenizes a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.corpora import Corpus
from ssmrank.config.reading import read_settings
from ssmrank.pretraining.tokens import write_tokens


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--corpus", required=True, help="section of corpora: inline JSON, or a file")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of `ssmrank pretrain tokenizer`")
    parser.add_argument("--max-length", type=int, required=True, help="tokens of a text with its special tokens")
    parser.add_argument("--processes", type=int, help="at most one for each file (default: the number of cores)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the folder."""
    corpus = read_settings(Corpus, arguments.corpus)
    write_tokens(corpus, arguments.tokenizer, arguments.max_length - 2, arguments.output, arguments.processes)
