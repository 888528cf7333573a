"""What the engine needs to know about an architecture of transformers, and what most architectures share.

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


def is_positive(value: object) -> bool:
    """Whether this is an integer above zero."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def no_offset(config: PreTrainedConfig) -> int:
    """Most models' positions start at 0."""
    return 0


def hidden_size(config: PreTrainedConfig) -> int:
    """The width of the last hidden states in most models."""
    return config.hidden_size


def whole_layer(layer: Any) -> Sequence[nn.Module]:
    """Most layers are called as one module, and so are gathered as one."""
    return (layer,)


def unchanged(backbone: Any) -> None:
    """Most backbones stay as they are."""


def nothing_wrong(config: PreTrainedConfig) -> str:
    """Every config that transformers accepts is supported."""
    return ""


def attention_forward(backbone: Any, packed: Packed, offset: int = 0) -> Tensor:
    """Last hidden states [T, hidden size] of a model that attends through transformers' attention interface.

    The model takes position ids, which start at `offset`, and passes its keyword arguments on to attention.
    """
    positions = packed.position_ids + offset if offset else packed.position_ids
    options: dict[str, Any] = {"use_cache": False, "packed": packed}
    if packed.token_types is not None:
        options["token_type_ids"] = packed.token_types[None]
    output = backbone(input_ids=packed.input_ids[None], position_ids=positions[None], **options)
    return output.last_hidden_state.squeeze(0)


class LayerNorm(nn.LayerNorm):
    """PyTorch's layer norm, with a faster backward pass on a GPU."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The same result as PyTorch's."""
        return add_layer_norm(hidden_states, None, self.weight, self.bias, self.eps)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that the engine knows about an architecture. The defaults fit most architectures.

    A packed forward returns the last hidden states [T, `output_width`], the same as running each sequence alone.
    """

    model_type: str
    """Its name in transformers, which is also the name of its file in `models/architectures` (see `model_type_of`)."""
    causal: bool
    """Whether a token's state is independent of later tokens, so that sequences can share a prefix."""
    forward: Callable[[Any, Packed], Tensor] = attention_forward
    """From a backbone and a batch to the last hidden states. If causal, the batch may have `packed.prefix_levels`."""
    scored_token: Callable[[Any, Packed, Tensor], Tensor] | None = None
    """For inference: from a backbone, a batch and the index of one token of each sequence, int64 [R], to the states
    [R, `output_width`] of these tokens. The last layer's work after attention is done for them alone. A causal
    architecture is only asked for `packed.last`, and its batch may have `packed.prefix_levels`."""
    first_token: Callable[[Any, Packed], Tensor] | None = None
    """The states [S, `output_width`] of the first tokens, also in training. Set it where this costs less than all
    states."""
    learned_positions: bool = False
    """Whether positions are a table of `max_position_embeddings` rows, which limits the input's length."""
    position_offset: Callable[[PreTrainedConfig], int] = no_offset
    """The row of that table for a sequence's first token."""
    output_width: Callable[[PreTrainedConfig], int] = hidden_size
    """Width of the last hidden states."""
    attention: bool = True
    """Whether the model has attention, through transformers' attention interface."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the model's constructor besides the config."""
    replaced: Mapping[type[nn.Module], type[nn.Module]] = field(default_factory=lambda: {nn.LayerNorm: LayerNorm})
    """Module classes, each with the subclass that computes the same faster."""
    share: Callable[[Any], None] = unchanged
    """Gives layers that share weights one module for these, in place. It is then adapted, rounded and gathered once."""
    shards: Callable[[Any], Sequence[nn.Module]] = whole_layer
    """The modules of a layer that FSDP gathers one at a time. Each must be called as a module."""
    prepare: Callable[[Any], None] = unchanged
    """Changes a backbone in place, on its device, for faster inference in bf16 or 8-bit floats. It is called before
    weights are rounded, and leaves the function that the model computes as it is."""
    captured: bool = True
    """Whether training on a GPU may run as CUDA graphs. Not where a pass asks the GPU for numbers, such as where
    sequences start."""
    initialize: Callable[[Any], None] = unchanged
    """Draws weights for pretraining anew where transformers' random weights are not those that the authors began
    with, from torch's generator and in place."""
    not_float8: frozenset[str] = frozenset()
    """Names of linear modules that stay in bfloat16 when the others become 8-bit floats."""
    last_layer_float8: bool = True
    """Whether the last layer's linear modules become 8-bit floats."""
    masked_head: Callable[[Any], nn.Module] | None = None
    """The module of a language model between the last hidden states and the tied embeddings. Masked language models
    need one; of causal ones ModernBERT's decoder has it."""
    classes: tuple[Any, Any] | None = None
    """Config and model, where transformers has none: classes of transformers' kinds, with `from_pretrained`."""
    problem: Callable[[PreTrainedConfig], str] = nothing_wrong
    """What is unsupported in a config, in words; empty if nothing is."""

    def longest_input(self, config: PreTrainedConfig) -> int | None:
        """The number of tokens that the position table covers; None without a table."""
        if not self.learned_positions:
            return None
        return config.max_position_embeddings - self.position_offset(config)
