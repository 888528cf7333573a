"""Checks a model's folder when it is fetched, so that errors do not wait for a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ssmrank.config.models import Model
from ssmrank.errors import UserError
from ssmrank.models.backbones import load_backbone, packed_forward
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.packing import TYPE_SHIFT, pack
from ssmrank.models.reading import check_finite, reading
from ssmrank.models.reranker import TRAINED_FILE, load_reranker
from ssmrank.models.templates import Template


def check_tokenizer(folder: Path, model: Model) -> Template:
    """Reads a folder's tokenizer and tokenizes a text. Raises UserError if it is broken or lacks a special token."""
    tokenizer = load_tokenizer(folder)
    with reading(f"{folder}: its tokenizer is broken; get its files again"):
        template = Template.of(tokenizer, model.kind, model.template)
        if not len(template.tokenize_documents(["a"])[0]):
            raise UserError(f"{folder}: its tokenizer makes no tokens from a text; get its files again")
    return template


def check_model(folder: Path, template: Template) -> None:
    """Reads a folder's weights and runs two tokens. Raises UserError if weights do not fit or values are not finite."""
    trained = load_reranker(folder) if (folder / TRAINED_FILE).is_file() else None
    backbone: Any = load_backbone(folder) if trained is None else trained.backbone
    check_finite(folder, (backbone if trained is None else trained).state_dict())
    _check_ids(folder, template, backbone.get_input_embeddings().num_embeddings)
    query, document = template.tokenize_queries(["a"])[0], template.tokenize_documents(["a"])[0]
    tokens = template.join(query, document, len(query) + len(document) + 8)[:2]
    with torch.inference_mode(), reading(f"{folder}: its model does not run; correct config.json"):
        states = packed_forward(backbone.eval(), pack([tokens]))
    if not states.isfinite().all():
        raise UserError(f"{folder}: its model computes NaN or infinity for two tokens; get another model")


def _check_ids(folder: Path, template: Template, rows: int) -> None:
    # An unused special token may have a higher id, because some tokenizer classes add their own.
    tokenizer = template.tokenizer
    unused = {*tokenizer.all_special_ids} - {id % (1 << TYPE_SHIFT) for id in (*template.before, *template.after)}
    used = ((id, token) for token, id in tokenizer.get_vocab().items() if id not in unused)
    id, token = max(used, default=(0, ""))
    if id >= rows:
        raise UserError(
            f"{folder}: token {token!r} has id {id}, but the model has embeddings of {rows} tokens; give the tokenizer "
            "of this model, or correct vocab_size"
        )
