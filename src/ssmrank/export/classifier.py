"""A folder of transformers' `AutoModelForSequenceClassification`, for encoders.

transformers' classifiers have more between the first token and the score than one linear layer. The layers that a
reranker of ours lacks get weights with which they change nothing: near 0 the hyperbolic tangent is the identity, and
gelu(x) - gelu(-x) is x for every x.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from ssmrank.errors import UserError
from ssmrank.models.cross_encoder import KNOWN, head_settings, layers_of
from ssmrank.models.heads import ClassifierHead
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reranker import Reranker
from ssmrank.models.templates import PAIR

_NEAR_ZERO = 2.0**-13
"""What scores are multiplied by before a tanh. A score of 20 loses 4e-5, and half precision keeps its digits."""
_LARGE = 2.0**13
"""The value that sets the variance of a layer norm, beside which that of the score does not count."""


def classifier(reranker: Reranker) -> Any:
    """transformers' classifier with one label whose logit is the reranker's score, in evaluation mode.

    Raises UserError if transformers has none for this architecture and pooling.
    """
    if reranker.settings.template == PAIR:
        return _read_before(reranker)
    config = copy.deepcopy(reranker.backbone.config)
    kind, pooled = config.model_type, reranker.settings.pooled
    poolings = ("first", "mean") if kind == "modernbert" else ("first",)
    if kind not in _HEADS or pooled not in poolings:
        reason = f"pools the {pooled}" if kind in _HEADS else f"is none of {', '.join(_HEADS)}"
        raise UserError(
            f"format transformers: {kind} cannot be written, since it {reason}; use format sentence-transformers"
        )
    if kind == "modernbert":
        config.classifier_pooling = {"first": "cls", "mean": "mean"}[pooled]
        config.classifier_bias, config.classifier_activation = True, "gelu"
    model, head = _unset(reranker, config), linear_head(reranker)
    with torch.no_grad():
        _HEADS[kind](model, head.weight[0], head.bias[0])
    return model.eval()


def linear_head(reranker: Reranker) -> nn.Linear:
    """The layer that scores. Raises UserError if there are others before it."""
    if not isinstance(reranker.head, nn.Linear) or reranker.settings.template == PAIR:
        raise UserError("it was read from another library's cross-encoder; only format transformers can hold it")
    return reranker.head


def _read_before(reranker: Reranker) -> Any:
    """The classifier that a reranker was read from, with the reranker's weights."""
    config = copy.deepcopy(reranker.backbone.config)
    wrong = UserError(f"{config.model_type} with the head of this cross-encoder has no class in transformers")
    if config.model_type not in KNOWN or not isinstance(reranker.head, ClassifierHead):
        raise wrong  # Llama's class, for one, has no bias, which a training here changes
    model = _unset(reranker, config)
    layers = layers_of(model)
    if head_settings(layers) != reranker.settings.head:
        raise wrong
    with torch.no_grad():
        for own, theirs in zip((reranker.head.dense, reranker.head.norm, reranker.head.out), layers, strict=False):
            if theirs is not None:
                theirs.load_state_dict(own.state_dict(), strict=theirs.bias is not None)
    return model.eval()


def _unset(reranker: Reranker, config: Any) -> Any:
    """A classifier with the reranker's backbone, whose other layers have yet to be set."""
    config.num_labels, config.problem_type = 1, "regression"
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.base_model.load_state_dict(reranker.backbone.state_dict(), strict=False)  # BERT's pooler belongs to the head
    return model


def write_classifier(reranker: Reranker, folder: Path) -> None:
    """Writes the classifier's config and weights into an existing folder. Raises UserError as `classifier` does."""
    with quiet_transformers():
        classifier(reranker).save_pretrained(folder)


def _through_tanh(dense: nn.Linear, out: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    _clear(dense, out)
    dense.weight[0], dense.bias[0] = _NEAR_ZERO * weight, _NEAR_ZERO * bias
    out.weight[0, 0] = 1 / _NEAR_ZERO


def _through_gelu(dense: nn.Linear, out: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    _clear(dense, out)
    dense.weight[0], dense.bias[0] = weight, bias
    dense.weight[1], dense.bias[1] = -weight, -bias
    out.weight[0, 0], out.weight[0, 1] = 1.0, -1.0


def _clear(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _bert(model: Any, weight: Tensor, bias: Tensor) -> None:
    _through_tanh(model.bert.pooler.dense, model.classifier, weight, bias)


def _roberta(model: Any, weight: Tensor, bias: Tensor) -> None:
    _through_tanh(model.classifier.dense, model.classifier.out_proj, weight, bias)


def _electra(model: Any, weight: Tensor, bias: Tensor) -> None:
    _through_gelu(model.classifier.dense, model.classifier.out_proj, weight, bias)


def _modernbert(model: Any, weight: Tensor, bias: Tensor) -> None:
    # A layer norm follows. One large value more makes its variance, and so its scale, almost constant.
    dense, out, norm = model.head.dense, model.classifier, model.head.norm
    _through_gelu(dense, out, weight, bias)
    dense.bias[2] = _LARGE
    nn.init.ones_(norm.weight)
    if norm.bias is not None:
        nn.init.zeros_(norm.bias)
    share = 1 / len(norm.weight)
    out.weight *= math.sqrt(_LARGE**2 * (share - share**2) + norm.eps)


_HEADS: dict[str, Callable[[Any, Tensor, Tensor], None]] = {
    "bert": _bert,
    "electra": _electra,
    "modernbert": _modernbert,
    "roberta": _roberta,
}
