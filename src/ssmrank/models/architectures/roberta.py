"""RoBERTa: Liu et al. 2019. Its positions start after the padding token's id."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform
from transformers.models.roberta.modeling_roberta import RobertaOutput, RobertaSelfOutput

from ssmrank.models.architecture import Architecture, attention_forward
from ssmrank.models.bert_family import encoder_token, norms
from ssmrank.models.packing import Packed


def _offset(config: PreTrainedConfig) -> int:
    return config.pad_token_id + 1


def _forward(backbone: Any, packed: Packed) -> Tensor:
    return attention_forward(backbone, packed, _offset(backbone.config))


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    return encoder_token(backbone, packed, wanted, _offset(backbone.config))


ARCHITECTURE = Architecture(
    model_type="roberta",
    causal=False,
    forward=_forward,
    scored_token=_token,
    learned_positions=True,
    position_offset=_offset,
    options={"add_pooling_layer": False},
    replaced=norms(RobertaOutput, RobertaSelfOutput),
    masked_head=BertPredictionHeadTransform,  # the same as RoBERTa's own, which transformers joins with the embeddings
)
