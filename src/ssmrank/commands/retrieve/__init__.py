"""`ssmrank retrieve`: first-stage retrieval; here is the option that its subcommands share."""

from __future__ import annotations

import argparse


def add_own_document(parser: argparse.ArgumentParser) -> None:
    """Adds the option for collections whose queries are also documents."""
    parser.add_argument(
        "--leave-out-own-document", action="store_true", help="leave out the document that has the query's id"
    )
