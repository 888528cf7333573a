"""`ssmrank serve`: answers reranking requests over HTTP."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import torch

from ssmrank.api import Reranker
from ssmrank.errors import UserError
from ssmrank.io.files import read_text
from ssmrank.io.sizes import parse_bytes
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.serving.settings import ServerSettings

log = logging.getLogger(__name__)

KEY = "SSMRANK_API_KEY"
"""Environment variable with the key that clients have to send."""

_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Larger batches are computed faster, but a request that comes while one runs waits longer."""

_STATE_CACHE = "2GB"

_PACKAGES = frozenset({"fastapi", "h11", "prometheus_client", "starlette", "uvicorn"})
"""What the extra `serve` installs."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    limits = ServerSettings()
    parser.add_argument("--model", required=True, help="folder of a trained reranker, or OWNER/NAME of the hub")
    parser.add_argument("--name", help="what clients call the model (default: the last part of --model)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8080, help="port, 0: any free one (default: %(default)s)")
    parser.add_argument(
        "--device", default="auto", help="the device, as torch names it (default: a GPU if there is one)"
    )
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp8"], default="auto")
    parser.add_argument(
        "--state-cache",
        metavar="BYTES",
        help="memory for the states of documents, with which a document that is asked for again costs its query's "
        f"tokens only, such as 500MB; 0: none (default: {_STATE_CACHE}, with --deterministic 0)",
    )
    parser.add_argument(
        "--state-folder",
        type=Path,
        metavar="FOLDER",
        help="folder that `ssmrank states` wrote; a state is loaded from it where that is faster than computing it",
    )
    parser.add_argument(
        "--state-loading",
        choices=["measured", "always", "never"],
        default="measured",
        help="when states of --state-folder are loaded: where it is faster, as measured at the start (default)",
    )
    parser.add_argument(
        "--deterministic",
        choices=["batch"],
        help="batch: a pair's score has the same bits whatever else is asked for; no states are kept then",
    )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"file with the key that clients send as `Authorization: Bearer KEY` (default: {KEY} of the environment)",
    )
    for option, name, help in (
        ("--max-bytes", "max_bytes", "bytes of a request"),
        ("--max-documents", "max_documents", "documents of a request"),
        ("--max-requests", "max_requests", "requests that wait or are computed; further ones get 429"),
        ("--max-connections", "max_connections", "open connections; further ones are closed"),
    ):
        most = f"the most {help} (default: %(default)s)"
        parser.add_argument(option, type=int, default=getattr(limits, name), metavar="N", help=most)
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=None,
        metavar="N",
        help=f"the most tokens of a batch (default: {_BATCH_TOKENS['cpu']} on a CPU, {_BATCH_TOKENS['cuda']} on a GPU)",
    )
    for option, name, help in (
        ("--timeout", "timeout", "for sending a request, and again for answering it"),
        ("--keep-alive", "keep_alive", "that a connection may wait for another request"),
        ("--window", "window", "that the first request of an idle server waits for others to join its batch"),
        ("--grace", "grace", "for finishing requests after SIGTERM"),
    ):
        seconds = f"seconds {help} (default: %(default)s)"
        parser.add_argument(option, type=float, default=getattr(limits, name), metavar="SECONDS", help=seconds)


def run(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = _settings(arguments)
    if arguments.state_cache is None:
        arguments.state_cache = "0" if arguments.deterministic else _STATE_CACHE
    state_cache = parse_bytes(arguments.state_cache, "--state-cache")
    try:
        from ssmrank.serving.record import RequestLog
        from ssmrank.serving.scorers import scorer_of
        from ssmrank.serving.server import bind, is_local, serve
        from ssmrank.serving.service import Service
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise UserError(f"{error.name} is not installed; pip install 'ssmrank[serve]'") from error

    listener = bind(arguments.host, arguments.port)
    if settings.api_key is None and not is_local(listener):
        log.warning("other machines can use this server without an API key; set %s, or leave out --host", KEY)
    limit_tokenizer_threads()
    reranker = Reranker.from_pretrained(
        arguments.model,
        device=arguments.device,
        precision=arguments.precision,
        token_budget=settings.batch_tokens,
        state_cache=state_cache,
        state_folder=arguments.state_folder,
        state_loading=arguments.state_loading,
        deterministic=arguments.deterministic,
    )
    scorer = scorer_of(reranker)
    for query in ("a query", "another"):  # compiles kernels before the first client waits
        scorer.score([(query, "a text")])
    folder = Path(arguments.model)
    name = arguments.name or (folder.resolve().name if folder.is_dir() else arguments.model)
    serve(Service(reranker, scorer, name, settings), listener, RequestLog())


def _settings(arguments: argparse.Namespace) -> ServerSettings:
    if arguments.batch_tokens is None:
        gpu = torch.cuda.is_available() if arguments.device == "auto" else arguments.device.startswith("cuda")
        arguments.batch_tokens = _BATCH_TOKENS["cuda" if gpu else "cpu"]
    for name in ("max_bytes", "max_documents", "max_requests", "max_connections", "batch_tokens"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: give at least 1")
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port {arguments.port}: give a number from 0 to 65535")
    for name, least in (("timeout", 0.001), ("keep_alive", 0), ("window", 0), ("grace", 0)):
        if not least <= getattr(arguments, name) <= 86400:
            option = f"--{name.replace('_', '-')} {getattr(arguments, name):g}"
            raise UserError(f"{option}: give seconds from {least:g} to 86400")
    return ServerSettings(
        max_bytes=arguments.max_bytes,
        max_documents=arguments.max_documents,
        max_requests=arguments.max_requests,
        max_connections=arguments.max_connections,
        timeout=arguments.timeout,
        keep_alive=arguments.keep_alive,
        window=arguments.window,
        batch_tokens=arguments.batch_tokens,
        grace=arguments.grace,
        api_key=_api_key(arguments.api_key_file),
    )


def _api_key(file: Path | None) -> str | None:
    """The key from a file or from the environment. Raises UserError for one that no header can have."""
    where = str(file) if file else KEY
    key = read_text(file, 4096).strip() if file else os.environ.get(KEY)
    if key is None:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{where}: the API key must be one or more ASCII characters without spaces; write another")
    return key
