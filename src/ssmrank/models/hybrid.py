"""What models with both Mamba and attention share: Mamba's mixer inside a layer of transformers.

transformers' layers are called as they are. They hand the keyword `packed` on to attention and to the mixer alike, so
with shared prefixes a mixer forks its states where attention forks its keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ssmrank.kernels.norms.reference import Unscaled
from ssmrank.models.llama_family import heads_problem
from ssmrank.models.mamba import fold_where_gated, mamba2_mixer, project
from ssmrank.models.packing import Packed


class PackedMixer:
    """Replaces the forward pass of a Mamba mixer of transformers, whose modules and weights it uses."""

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
    """A subclass of a Mamba mixer of transformers for packed batches; `mix` as `models.mamba.Mixer`."""
    return type(f"_{kind.__name__}", (PackedMixer, kind), {"mix": staticmethod(mix)})


def mix_floored(mixer: Any, hidden: Tensor, packed: Packed, wanted: Tensor | None = None) -> Any:
    """As `mamba2_mixer`, with step sizes of at least `mixer.time_step_limit[0]`."""
    return mamba2_mixer(mixer, hidden, packed, wanted, _project_floored)


def _project_floored(mixer: Any, hidden: Tensor, rows: slice) -> Tensor:
    projected, least = project(mixer, hidden, rows), mixer.time_step_limit[0]
    if rows.stop is None and least > 0:  # else it is the gate alone
        # The last columns are step sizes before their bias and softplus, whose inverse at `least` this is.
        inverse = math.log(math.expm1(least))
        projected[:, -mixer.num_heads :].clamp_(min=(inverse - mixer.dt_bias).to(projected.dtype))
    return projected


def fold_mixers(backbone: Any) -> None:
    """As `fold_where_gated`, of all Mamba-2 mixers of a backbone that norm what they gate."""
    mixers = [module for module in backbone.modules() if isinstance(module, PackedMixer)]
    if mixers:
        fold_where_gated(mixers)


def begin_as_mamba2(backbone: Any) -> None:
    """Draws the weights of a backbone's mixers as those of a `Mamba2Model` are, in place.

    Some of transformers' hybrids start with steps so long that states fade after a token, or with convolutions that are
    ten times as small. Step sizes are from 0.001 to 0.1, evenly by their logarithm (Gu and Dao 2023, section 3.6).
    """
    for module in backbone.modules():
        if isinstance(module, PackedMixer):
            mixer: Any = module
            with torch.no_grad():
                steps = torch.empty_like(mixer.dt_bias).uniform_(math.log(1e-3), math.log(0.1)).exp()
                mixer.dt_bias.copy_(steps.expm1().log())  # softplus of this is the step
            for layer in (mixer.conv1d, mixer.out_proj):
                nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))


def mamba2_problem(config: PreTrainedConfig) -> str:
    """What is unsupported in a config of Mamba-2's mixers and attention, in words."""
    if tuple(config.time_step_limit) != (0.0, float("inf")):
        return f"time_step_limit {config.time_step_limit} is not supported; only [0, Infinity] is"
    activation = getattr(config, "mamba_hidden_act", None) or config.hidden_act
    if activation != "silu":
        return f"Mamba-2's mixers with activation {activation} are not supported; only silu is"
    return heads_problem(config)
