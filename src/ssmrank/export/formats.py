"""Writes a checkpoint in a format of another library."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, get_args

from ssmrank.errors import UserError
from ssmrank.export.pair_tokenizer import differing, pair_tokenizer, save_tokenizer, warn_of_tokens
from ssmrank.export.sentence_transformers import write_cross_encoder
from ssmrank.io.atomic import atomic_directory
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reranker import Reranker, load_reranker
from ssmrank.models.templates import PAIR

log = logging.getLogger(__name__)

Format = Literal["sentence-transformers", "transformers", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)


def export(checkpoint: Path, folder: Path, format: Format, without_code: bool = False) -> None:
    """Writes the checkpoint's reranker to a new folder, which is complete or absent.

    without_code: format sentence-transformers without a file of code, even if some texts become other tokens. Raises
    UserError if the folder has files already, or if the format cannot hold this reranker.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: there is something already; give a new folder")
    reranker = load_reranker(checkpoint)
    with atomic_directory(folder) as temporary:
        if reranker.settings.template == PAIR:
            _write_again(reranker, temporary, format)
            log.info("%s: CrossEncoder(folder) reads it", folder)
        elif format == "sentence-transformers":
            code = write_cross_encoder(reranker, temporary, without_code)
            log.info("%s: CrossEncoder(folder%s) reads it", folder, ", trust_remote_code=True" if code else "")
        else:
            _write_encoder(reranker, temporary, format)
            log.info("%s: written", folder)
        for file in temporary.rglob("*"):  # safetensors writes files that only their owner reads
            file.chmod(file.stat().st_mode | 0o444)


def _write_again(reranker: Reranker, folder: Path, format: Format) -> None:
    """Writes what was read from another library's cross-encoder, which sentence-transformers reads as it is."""
    if format == "onnx":
        raise UserError("format onnx: a cross-encoder of another library is not written; use format transformers")
    from ssmrank.export.classifier import write_classifier

    write_classifier(reranker, folder)
    reranker.tokenizer.model_max_length = reranker.settings.max_length
    with quiet_transformers():
        reranker.tokenizer.save_pretrained(folder)


def _write_encoder(reranker: Reranker, folder: Path, format: Format) -> None:
    if format == "onnx":
        from ssmrank.export.onnx_graph import check_exportable, write_graph

        check_exportable(reranker)
        tokenizer = pair_tokenizer(reranker)
        write_graph(reranker, folder)
    else:
        from ssmrank.export.classifier import write_classifier

        write_classifier(reranker, folder)
        tokenizer = pair_tokenizer(reranker)
    warn_of_tokens(differing(reranker, tokenizer))
    save_tokenizer(tokenizer, folder)
