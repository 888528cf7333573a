"""`ssmrank download collection`: fetches a collection and writes it in canonical form."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.collections.canonical import write_collection
from ssmrank.collections.opening import open_source
from ssmrank.config.collections import Collection
from ssmrank.config.corpora import Corpus
from ssmrank.config.reading import read_settings


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="a collection of params.yaml: JSON, or a JSON or YAML file")
    parser.add_argument("--corpus", help="for texts of a corpus: its section of corpora, as --settings")
    parser.add_argument("--texts", type=Path, help="for texts of a collection: its folder")
    parser.add_argument("--archives", required=True, type=Path, help="folder in which downloaded archives are kept")
    parser.add_argument("--output", required=True, type=Path, help="folder to write the collection to")


def run(arguments: argparse.Namespace) -> None:
    """Fetches the collection and writes it."""
    settings = read_settings(Collection, arguments.settings)
    corpus = None if arguments.corpus is None else read_settings(Corpus, arguments.corpus)
    source = open_source(settings, arguments.archives, corpus, arguments.texts)
    write_collection(source, settings.splits, arguments.output, settings.expected)
