"""`ssmrank states`: computes the states of a collection's documents, from which queries are answered."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from ssmrank.api import checkpoint_folder
from ssmrank.errors import UserError
from ssmrank.io.collection import documents_file
from ssmrank.io.texts import TextStore
from ssmrank.models.precision import default_device, resolve_precision
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reranker import load_reranker
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.state_folder import StateFolder, checkpoint_digest
from ssmrank.reranking.state_preparation import StatePreparation

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--model", required=True, help="folder of a trained reranker, or OWNER/NAME of the hub")
    parser.add_argument("--state-folder", type=Path, required=True, help="folder to write to, for any number of models")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp8"], default="auto")
    parser.add_argument(
        "--state-precision",
        choices=["computed", "bf16"],
        default="computed",
        help="numbers of the states: as they are computed, or rounded to bf16, which halves what is in fp32",
    )
    parser.add_argument(
        "--query-tokens",
        type=int,
        default=16,
        metavar="N",
        help="documents that are cut leave room for queries of N tokens; longer queries compute them (default: 16)",
    )
    parser.add_argument("--token-budget", type=int, default=16384, metavar="N", help="tokens in one forward pass")


def run(arguments: argparse.Namespace) -> None:
    """Writes the states that the folder lacks."""
    for name in ("query_tokens", "token_budget"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: give at least 1")
    limit_tokenizer_threads()
    texts = TextStore(documents_file(arguments.collection))
    checkpoint = checkpoint_folder(arguments.model)
    device = default_device()
    precision = resolve_precision(arguments.precision, device)
    with quiet_transformers():
        scorer = Scorer(load_reranker(checkpoint), precision, device)
    folder = StateFolder(arguments.state_folder, checkpoint_digest(checkpoint), precision)
    preparation = StatePreparation(
        scorer,
        folder,
        arguments.token_budget,
        arguments.query_tokens,
        torch.bfloat16 if arguments.state_precision == "bf16" else None,
        arguments.model,
    )
    computed, found = preparation.run(texts)
    log.info("%d states computed, %d were there: %s", computed, found, folder.path)
