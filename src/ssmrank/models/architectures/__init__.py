"""The supported architectures, each in a file of its own that is imported on demand."""

from __future__ import annotations

from importlib import import_module

from ssmrank.config.models import model_type_of
from ssmrank.errors import UserError
from ssmrank.models.architecture import Architecture

# Full module names, so that the provenance of jobs finds these dependencies.
_FILES = (
    "ssmrank.models.architectures.bamba",
    "ssmrank.models.architectures.bart",
    "ssmrank.models.architectures.bert",
    "ssmrank.models.architectures.electra",
    "ssmrank.models.architectures.falcon_h1",
    "ssmrank.models.architectures.gated_deltanet",
    "ssmrank.models.architectures.gemma3_text",
    "ssmrank.models.architectures.gpt_neox",
    "ssmrank.models.architectures.granitemoehybrid",
    "ssmrank.models.architectures.jamba",
    "ssmrank.models.architectures.llama",
    "ssmrank.models.architectures.mamba",
    "ssmrank.models.architectures.mamba2",
    "ssmrank.models.architectures.mamba3",
    "ssmrank.models.architectures.modernbert",
    "ssmrank.models.architectures.modernbert_decoder",
    "ssmrank.models.architectures.nemotron_h",
    "ssmrank.models.architectures.opt",
    "ssmrank.models.architectures.qwen3",
    "ssmrank.models.architectures.qwen3_5_text",
    "ssmrank.models.architectures.roberta",
    "ssmrank.models.architectures.zamba2",
)

MODEL_TYPES = tuple(model_type_of(name.rpartition(".")[2]) for name in _FILES)
"""The names of the supported architectures in transformers."""


TEXT_PARTS = {"qwen3_5": "qwen3_5_text"}
"""Models of text and images, and the architecture of their `text_config`, whose weights transformers reads alone."""


def architecture_of(model_type: object) -> Architecture:
    """The architecture of this name in transformers. Raises UserError if it is not supported."""
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UserError(f"model_type {model_type!r} is not supported; known: {', '.join(MODEL_TYPES)}")
    found = import_module(_FILES[MODEL_TYPES.index(model_type)]).ARCHITECTURE
    assert isinstance(found, Architecture) and found.model_type == model_type
    return found
