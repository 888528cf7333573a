"""`ssmrank pretrain tokenizer`: trains the tokenizer of a pretraining."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ssmrank.config.corpora import Corpus
from ssmrank.config.reading import read_settings
from ssmrank.io.atomic import atomic_directory
from ssmrank.models.quiet import quiet_transformers
from ssmrank.pretraining.tokenizer import first_texts, train_tokenizer

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--corpus", required=True, help="section of corpora: inline JSON, or a file")
    parser.add_argument("--vocabulary", type=int, required=True, help="number of entries")
    parser.add_argument("--texts", type=int, required=True, help="learn from the first N texts")
    parser.add_argument("--max-length", type=int, required=True, help="tokens of a text, for the tokenizer's settings")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Trains on texts that are not held out and writes the folder."""
    corpus = read_settings(Corpus, arguments.corpus)
    texts = first_texts(corpus, arguments.texts)
    tokenizer = train_tokenizer(texts, arguments.vocabulary, arguments.max_length)
    with atomic_directory(arguments.output) as folder, quiet_transformers():
        tokenizer.save_pretrained(folder)
    log.info("%d entries from %d texts", len(tokenizer), len(texts))
