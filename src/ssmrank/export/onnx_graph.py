"""An encoder as an ONNX graph, for ONNX Runtime: token ids and attention mask in, scores out."""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from ssmrank.errors import UserError
from ssmrank.export.classifier import linear_head
from ssmrank.models.architectures import architecture_of
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reranker import Reranker

FILE = "model.onnx"
OPSET = 18


class _Scorer(nn.Module):
    """Scores [pairs] of padded sequences, by transformers' own forward pass."""

    def __init__(self, reranker: Reranker) -> None:
        super().__init__()
        config = copy.deepcopy(reranker.backbone.config)
        options = architecture_of(config.model_type).options
        with quiet_transformers():
            self.backbone = AutoModel.from_config(config, attn_implementation="eager", dtype=torch.float32, **options)
        self.backbone.load_state_dict(reranker.backbone.state_dict())
        self.head, self.mean = linear_head(reranker), reranker.settings.pooled == "mean"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if not self.mean:
            return self.head(states[:, 0]).squeeze(-1)
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return self.head((states * mask).sum(1) / mask.sum(1)).squeeze(-1)


def check_exportable(reranker: Reranker) -> None:
    """Raises UserError, with the reason, if a reranker has no ONNX graph."""
    linear_head(reranker)
    kind = reranker.backbone.config.model_type
    if kind in ("mamba", "mamba2", "mamba3"):
        reason = "ONNX has no operator for Mamba's scan, and unrolled over time it would be a graph for one length only"
    elif architecture_of(kind).causal or reranker.settings.pooled == "last" or kind == "bart":
        reason = "only encoders that score their first token, or the mean, are written"
    else:
        return
    raise UserError(f"format onnx: {kind} cannot be written: {reason}; use format sentence-transformers")


def write_graph(reranker: Reranker, folder: Path) -> None:
    """Writes `model.onnx` into an existing folder: int64 [pairs, tokens] twice in, float32 [pairs] out.

    Raises UserError as `check_exportable` does, and if the packages `onnx` and `onnxscript` are not installed.
    """
    check_exportable(reranker)
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"format onnx: {package} is not installed; pip install 'ssmrank[export]'") from error
    ids = torch.full((2, 8), 5, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    dynamic: Any = {name: {0: "pairs", 1: "tokens"} for name in ("input_ids", "attention_mask")}
    with _quiet(), torch.inference_mode():
        torch.onnx.export(
            _Scorer(reranker).eval(),
            (ids, mask),
            folder / FILE,
            input_names=["input_ids", "attention_mask"],
            output_names=["scores"],
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what the exporter says of each of its steps."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
