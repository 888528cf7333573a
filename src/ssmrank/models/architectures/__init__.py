"""The architectures that can be reranked with: a file each, which is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from ssmrank.errors import UserError
from ssmrank.models.architecture import Architecture

# Whole names of modules, so that jobs are known to depend on them.
_FILES = (
    "ssmrank.models.architectures.bart",
    "ssmrank.models.architectures.bert",
    "ssmrank.models.architectures.electra",
    "ssmrank.models.architectures.gpt_neox",
    "ssmrank.models.architectures.llama",
    "ssmrank.models.architectures.mamba",
    "ssmrank.models.architectures.mamba2",
    "ssmrank.models.architectures.modernbert",
    "ssmrank.models.architectures.opt",
    "ssmrank.models.architectures.roberta",
)

MODEL_TYPES = tuple(name.rpartition(".")[2] for name in _FILES)
"""transformers' names of the architectures."""


def architecture_of(model_type: object) -> Architecture:
    """What is known of an architecture, by transformers' name of it. Raises UserError where there is none."""
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UserError(f"model_type {model_type!r} has no packed forward; known: {', '.join(MODEL_TYPES)}")
    found = import_module(_FILES[MODEL_TYPES.index(model_type)]).ARCHITECTURE
    assert isinstance(found, Architecture) and found.model_type == model_type
    return found
