"""What the engine has to know of an architecture of transformers, and what most of them share.

`docs/add-a-model.md` says how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ssmrank.kernels.norms import add_layer_norm
from ssmrank.models.packing import Packed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def no_offset(config: PreTrainedConfig) -> int:
    """Positions count from 0."""
    return 0


def hidden_size(config: PreTrainedConfig) -> int:
    """The width of most models' last hidden states."""
    return config.hidden_size


def whole_layer(layer: Any) -> Sequence[nn.Module]:
    """A layer that is called as a module is gathered as one."""
    return (layer,)


def nothing_wrong(config: PreTrainedConfig) -> str:
    """Every config that transformers takes is supported."""
    return ""


def attention_forward(backbone: Any, packed: Packed, offset: int = 0) -> Tensor:
    """Last hidden states [T, hidden size] of a model that attends through transformers' attention interface.

    The model takes position ids, which begin at `offset`, and hands its keyword arguments on to attention.
    """
    positions = packed.position_ids + offset if offset else packed.position_ids
    output = backbone(input_ids=packed.input_ids[None], position_ids=positions[None], use_cache=False, packed=packed)
    return output.last_hidden_state.squeeze(0)


class LayerNorm(nn.LayerNorm):
    """PyTorch's layer norm, with a faster backward pass on a GPU."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As PyTorch's."""
        return add_layer_norm(hidden_states, None, self.weight, self.bias, self.eps)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All that the engine knows of an architecture; fields without a value below are what most have.

    A packed forward gives the last hidden states [T, `output_width`], equal to running each sequence alone.
    """

    model_type: str
    """transformers' name of it, and the name of its file in `models/architectures`."""
    causal: bool
    """Whether a token's state depends on no later token, so that sequences can share a prefix."""
    forward: Callable[[Any, Packed], Tensor] = attention_forward
    """Backbone and batch to the last hidden states. A causal one takes batches with `packed.prefix_levels`."""
    scored_token: Callable[[Any, Packed, Tensor], Tensor] | None = None
    """For inference: backbone, batch and the indices int64 [R] of one token of each sequence to their states
    [R, `output_width`], the last layer's work after attention done for these alone. A causal one is only asked for
    `packed.last`, and takes batches with `packed.prefix_levels`."""
    first_token: Callable[[Any, Packed], Tensor] | None = None
    """States [S, `output_width`] of the first tokens, also in training, where they cost less than all states."""
    learned_positions: bool = False
    """Whether positions are a table of `max_position_embeddings` rows, which bounds the input's length."""
    position_offset: Callable[[PreTrainedConfig], int] = no_offset
    """The row of that table at which a sequence begins."""
    output_width: Callable[[PreTrainedConfig], int] = hidden_size
    """Width of the last hidden states."""
    attention: bool = True
    """Whether the model attends, and does so through transformers' attention interface."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the model's constructor beside the config."""
    replaced: Mapping[type[nn.Module], type[nn.Module]] = field(default_factory=lambda: {nn.LayerNorm: LayerNorm})
    """Classes of modules, each with the subclass that computes the same faster."""
    shards: Callable[[Any], Sequence[nn.Module]] = whole_layer
    """The modules of a layer that FSDP gathers one at a time; each is called as a module."""
    not_float8: frozenset[str] = frozenset()
    """Names of linear modules that stay in bfloat16 where the others are in 8-bit floats."""
    last_layer_float8: bool = True
    """Whether the last layer's linear modules become 8-bit floats."""
    masked_head: Callable[[Any], nn.Module] | None = None
    """What a masked language model has between the last hidden states and the tied embeddings."""
    problem: Callable[[PreTrainedConfig], str] = nothing_wrong
    """What of a config is not supported, in words; empty where all is."""

    def longest_input(self, config: PreTrainedConfig) -> int | None:
        """Tokens that the table of positions reaches to; None where there is no table."""
        if not self.learned_positions:
            return None
        return config.max_position_embeddings - self.position_offset(config)
