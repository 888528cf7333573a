"""A backbone that predicts tokens; its word embeddings are also its output layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ssmrank.errors import UserError
from ssmrank.models.architectures import architecture_of
from ssmrank.models.backbones import new_config, packed_forward, random_backbone
from ssmrank.models.packing import Packed
from ssmrank.pretraining.cross_entropy import vocabulary_cross_entropy


class LanguageModel(nn.Module):
    """A backbone whose embeddings are also the output layer; a masked model adds its architecture's head and a bias.

    Head and bias are used in pretraining alone; the checkpoint does not have them.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.head: nn.Module | None = None
        self.bias: nn.Parameter | None = None
        masked_head = architecture_of(backbone.config.model_type).masked_head
        if masked_head is not None:
            self.head = masked_head(backbone.config)
            for module in self.head.modules():
                backbone._init_weights(module)
            self.bias = nn.Parameter(torch.zeros(backbone.config.vocab_size))

    def forward(self, packed: Packed, places: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum, float32, of the cross entropies at `places` of a packed batch against `targets`, both int64 [M]."""
        hidden = packed_forward(self.backbone, packed).index_select(0, places)
        if self.head is not None:
            hidden = self.head(hidden)
        return vocabulary_cross_entropy(hidden, self.backbone.get_input_embeddings().weight, self.bias, targets)


def new_language_model(config: PreTrainedConfig, seed: int) -> LanguageModel:
    """A model with random weights, drawn from `seed`."""
    torch.manual_seed(seed)
    backbone = random_backbone(config)
    architecture_of(config.model_type).initialize(backbone)
    return LanguageModel(backbone)


def language_model_config(
    values: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> PreTrainedConfig:
    """The config of a backbone: `values`, the tokenizer's vocabulary and special tokens, and no dropout.

    Raises UserError where transformers cannot make such a config.
    """
    own = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": max_length,
        "tie_word_embeddings": True,
        # No text is read more than a few times, so overfitting is no concern.
        **dict.fromkeys(("dropout", "attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    }
    try:
        known = new_config(values["model_type"]).to_dict()
        config = new_config(**({key: value for key, value in own.items() if key in known} | values))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"config: transformers cannot make a config from it: {error}") from error
    if "max_position_embeddings" not in values and "max_position_embeddings" in known:
        config.max_position_embeddings += architecture_of(config.model_type).position_offset(config)
    return config


def non_embedding_parameters(backbone: nn.Module) -> int:
    """Number of a backbone's weights without the embeddings of words, positions and segments."""
    embeddings = {id(module.weight) for module in backbone.modules() if isinstance(module, nn.Embedding)}
    return sum(parameter.numel() for parameter in backbone.parameters() if id(parameter) not in embeddings)
