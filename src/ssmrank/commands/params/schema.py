"""`ssmrank params schema`: prints the JSON schema of params.yaml."""

from __future__ import annotations

import argparse

from ssmrank.config.schema import schema_text


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds no options."""


def run(arguments: argparse.Namespace) -> None:
    """Prints the schema."""
    print(schema_text(), end="")
