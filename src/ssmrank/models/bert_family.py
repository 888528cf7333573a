"""What BERT, RoBERTa and ELECTRA share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ssmrank.kernels.norms import add_layer_norm
from ssmrank.models.architecture import LayerNorm
from ssmrank.models.attention import last_attention
from ssmrank.models.packing import Packed


def encoder_token(backbone: Any, packed: Packed, wanted: Tensor, offset: int = 0) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R]; positions start at `offset`."""
    types = None if packed.token_types is None else packed.token_types[None]
    hidden = backbone.embeddings(
        input_ids=packed.input_ids[None], position_ids=packed.position_ids[None] + offset, token_type_ids=types
    )
    if hasattr(backbone, "embeddings_project"):
        hidden = backbone.embeddings_project(hidden)
    for layer in backbone.encoder.layer[:-1]:
        hidden = layer(hidden, packed=packed)
    layer, hidden = backbone.encoder.layer[-1], hidden[0]
    own, kept = layer.attention.self, hidden.index_select(0, wanted)
    size = (-1, own.attention_head_size)
    q, k, v = (x.unflatten(1, size) for x in (own.query(kept), own.key(hidden), own.value(hidden)))
    attended = last_attention(q, k, v, packed, own.scaling).flatten(1)
    return layer.feed_forward_chunk(layer.attention.output(attended, kept))


class _AddNorm:
    """BERT's layer norm of a sublayer's output plus its input, with the addition fused into the norm."""

    dense: nn.Linear
    dropout: nn.Dropout
    LayerNorm: nn.LayerNorm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        update, norm = self.dropout(self.dense(hidden_states)), self.LayerNorm
        return add_layer_norm(input_tensor, update, norm.weight, norm.bias, norm.eps)


def norms(*outputs: type[nn.Module]) -> dict[type[nn.Module], type[nn.Module]]:
    """Faster classes for layer norms and for the sublayers' `outputs`, which end in one."""
    return {nn.LayerNorm: LayerNorm} | {kind: type(f"_{kind.__name__}", (_AddNorm, kind), {}) for kind in outputs}
