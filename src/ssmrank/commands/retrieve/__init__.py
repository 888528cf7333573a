"""`ssmrank retrieve`: first-stage retrieval, and the option that its members share."""

from __future__ import annotations

import argparse


def add_own_document(parser: argparse.ArgumentParser) -> None:
    """Adds the option of collections whose queries are documents of theirs."""
    parser.add_argument(
        "--leave-out-own-document", action="store_true", help="the document with a query's id is no answer to it"
    )
