"""What models with both Mamba-2 and attention share: Mamba-2's mixer inside a layer of transformers.

transformers' layers are called as they are. They hand the keyword `packed` on to attention and to the mixer alike, so
with shared prefixes a mixer forks its states where attention forks its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ssmrank.kernels.norms.reference import Unscaled
from ssmrank.models.mamba import fold_where_gated, mamba2_mixer
from ssmrank.models.packing import Packed


class PackedMamba2:
    """Replaces the forward pass of a Mamba-2 mixer of transformers, whose modules and weights it uses."""

    mix: Callable[..., Any] = staticmethod(mamba2_mixer)

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: None = None,
        attention_mask: None = None,
        packed: Packed | None = None,
        **_: Any,
    ) -> Tensor:
        """From [1, T, hidden size] to the same. Raises ValueError without `packed`."""
        if packed is None:
            raise ValueError("a packed mixer needs the keyword `packed`")
        mixed = self.mix(self, hidden_states.squeeze(0), packed)
        return (mixed.scale_() if isinstance(mixed, Unscaled) else mixed)[None]

    def token(self, hidden_states: Tensor, packed: Packed, wanted: Tensor) -> Tensor:
        """Rows `wanted`, int64 [R], of what [T, hidden size] gives."""
        return self.mix(self, hidden_states, packed, wanted)


def packed_mixer(kind: type[nn.Module], mix: Callable[..., Any] = mamba2_mixer) -> type[nn.Module]:
    """A subclass of a Mamba-2 mixer of transformers for packed batches; `mix` as `models.mamba.Mixer`."""
    return type(f"_{kind.__name__}", (PackedMamba2, kind), {"mix": staticmethod(mix)})


def fold_mixers(backbone: Any) -> None:
    """As `fold_where_gated`, of all Mamba-2 mixers of a backbone that norm what they gate."""
    mixers = [module for module in backbone.modules() if isinstance(module, PackedMamba2)]
    if mixers:
        fold_where_gated(mixers)


def mamba2_problem(config: PreTrainedConfig) -> str:
    """What is unsupported in the part of a config that describes Mamba-2's mixers, in words."""
    if tuple(config.time_step_limit) != (0.0, float("inf")):
        return f"time_step_limit {config.time_step_limit} is not supported; only [0, Infinity] is"
    activation = getattr(config, "mamba_hidden_act", None) or config.hidden_act
    if activation != "silu":
        return f"Mamba-2's mixers with activation {activation} are not supported; only silu is"
    return ""
