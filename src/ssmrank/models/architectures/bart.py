"""BART: Lewis et al. 2020. The packed forward of its encoder and decoder, and its representation of a pair.

The decoder reads `decoder_start_token_id`, then the input ids shifted right, and the encoder's output through cross
attention. The state of its first position is what pooling the first token of transformers' `BartModel(input_ids)`
gives. Self attention is causal, so this state depends only on the start token and the encoder, and one decoder token
for each sequence suffices to compute it. RankMamba, the paper's predecessor, does the same with its encoder-decoder (T5
with one decoder start token). The encoder's own first token would leave the decoder, over a third of the weights, out
of the score.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from ssmrank.models.architecture import Architecture
from ssmrank.models.packing import Packed


def _forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """The decoder's last hidden states [T, hidden size]; row t is the output of `BartModel` at token t."""
    shifted = packed.input_ids.roll(1)
    shifted[packed.first] = backbone.config.decoder_start_token_id
    return _decode(backbone, replace(packed, input_ids=shifted), packed)


def _first(backbone: Any, packed: Packed) -> torch.Tensor:
    """Rows `packed.first` of `_forward`, [S, hidden size], computed with one decoder token for each sequence."""
    sequences = len(packed.lengths)
    numbers = torch.arange(sequences + 1, device=packed.input_ids.device)
    starts = torch.full_like(numbers[:-1], backbone.config.decoder_start_token_id)
    target = Packed(starts, torch.zeros_like(starts), numbers[:-1].to(torch.int32), numbers, (1,) * sequences)
    return _decode(backbone, target, packed)


def _decode(backbone: Any, target: Packed, source: Packed) -> torch.Tensor:
    encoded = _embed(backbone.encoder, source)
    for layer in backbone.encoder.layers:
        encoded = layer(encoded, None, packed=source)
    target = replace(target, memory=source)
    hidden = _embed(backbone.decoder, target)
    for layer in backbone.decoder.layers:
        hidden = layer(hidden, None, encoder_hidden_states=encoded, use_cache=False, packed=target)
    return hidden.squeeze(0)


def _embed(stack: Any, packed: Packed) -> torch.Tensor:
    # transformers' own forward takes no position ids for BART.
    table = stack.embed_positions
    positions = F.embedding(packed.position_ids + table.offset, table.weight)
    hidden = stack.layernorm_embedding(stack.embed_tokens(packed.input_ids) + positions)
    return F.dropout(hidden, p=stack.dropout, training=stack.training)[None]


ARCHITECTURE = Architecture(
    model_type="bart",
    causal=False,  # because of the encoder
    forward=_forward,
    first_token=_first,
    learned_positions=True,
)
