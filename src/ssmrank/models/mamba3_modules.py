"""Mamba-3 as a model of transformers: Lahoti et al. 2026, with one input and one output.

transformers has no Mamba-3. The config's keys and the weights' names are those of flash-linear-attention, so each reads
the other's checkpoints. The forward pass here is the definition, token by token and slow; the packed one is that of
`models.mamba3`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from ssmrank.kernels.trapezoid.inputs import turned
from ssmrank.models.own_classes import register_classes


@strict
class Mamba3Config(PreTrainedConfig):
    """The shape of a Mamba-3; see flash-linear-attention for the keys."""

    model_type = "mamba3"

    head_dim: int = 64
    vocab_size: int = 32000
    hidden_size: int = 2048
    state_size: int = 128
    num_hidden_layers: int = 48
    norm_eps: float = 1e-5
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    expand: float | int = 2
    n_groups: int = 1
    use_bias: bool = False
    rope_fraction: float | int = 0.5
    A_floor: float = 1e-4
    is_outproj_norm: bool = False
    is_mimo: bool = False
    mimo_rank: int = 4
    hidden_act: str = "silu"
    initializer_range: float = 0.02
    residual_in_fp32: bool = True
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4
    rescale_prenorm_residual: bool = True
    chunk_size: int = 64
    tie_word_embeddings: bool = False


class Mamba3RMSNorm(nn.Module):
    """The norm of the last dimension's `[size]` channels."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        """In x's dtype, computed in float32 at least."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        factors = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return (wide * factors * self.weight).to(x.dtype)


class Mamba3Mixer(nn.Module):
    """The part of a layer that mixes tokens."""

    def __init__(self, config: Mamba3Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.intermediate_size = int(config.expand * config.hidden_size)
        self.head_dim, self.ssm_state_size = config.head_dim, config.state_size
        self.num_heads, self.n_groups = self.intermediate_size // config.head_dim, config.n_groups
        self.num_rope_angles = int(config.state_size * config.rope_fraction) // 2
        self.A_floor, self.is_outproj_norm, self.chunk_size = config.A_floor, config.is_outproj_norm, config.chunk_size
        self.in_proj = nn.Linear(config.hidden_size, sum(self.columns), bias=config.use_bias)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.B_bias = nn.Parameter(torch.empty(self.num_heads, 1, self.ssm_state_size))
        self.C_bias = nn.Parameter(torch.empty(self.num_heads, 1, self.ssm_state_size))
        self.B_norm = Mamba3RMSNorm(self.ssm_state_size, config.norm_eps)
        self.C_norm = Mamba3RMSNorm(self.ssm_state_size, config.norm_eps)
        self.D = nn.Parameter(torch.empty(self.num_heads))
        if config.is_outproj_norm:
            self.norm = Mamba3RMSNorm(self.intermediate_size, config.norm_eps)
        self.out_proj = nn.Linear(self.intermediate_size, config.hidden_size, bias=config.use_bias)

    @property
    def columns(self) -> list[int]:
        """The columns of the input projection: gate, x, B, C, step sizes, rates of decay, shares and angles."""
        states, heads = self.n_groups * self.ssm_state_size, self.num_heads
        return [self.intermediate_size] * 2 + [states] * 2 + [heads] * 3 + [self.num_rope_angles]

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """From `[B, L, hidden size]` to the same, token by token; tokens whose mask `[B, L]` is 0 are passed over."""
        z, x, b, c, dt, decay, share, angle = self.in_proj(hidden).split(self.columns, dim=-1)
        x = x.unflatten(-1, (self.num_heads, -1)).float()
        steps = F.softplus(dt.float() + self.dt_bias.float())
        if attention_mask is not None:
            real = attention_mask[..., None].to(steps.dtype)
            x, steps = x * real[..., None], steps * real
        decays = torch.exp(steps * (-F.softplus(decay.float())).clamp(max=-self.A_floor))
        angles = (steps[..., None] * (math.pi * torch.tanh(angle.float()))[..., None, :]).double().cumsum(1)
        b, c = (
            turned(self._heads(*of), angles.cos(), angles.sin()).float()
            for of in ((b, self.B_norm, self.B_bias), (c, self.C_norm, self.C_bias))
        )
        own = torch.sigmoid(share.float()) * steps
        before = (steps - own)[..., None, None]
        own, decays = own[..., None, None], decays[..., None, None]
        state = driven = x.new_zeros(len(x), *x.shape[2:], self.ssm_state_size)
        rows = []
        for t in range(x.shape[1]):
            state = decays[:, t] * (state + before[:, t] * driven)
            driven = x[:, t, :, :, None] * b[:, t, :, None]
            state = state + own[:, t] * driven
            rows.append((state * c[:, t, :, None]).sum(-1))
        y = torch.stack(rows, dim=1) + self.D.float()[:, None] * x
        gate = F.silu(z.float()).unflatten(-1, y.shape[-2:])
        if self.is_outproj_norm:
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.norm.variance_epsilon)
            y = y * self.norm.weight.unflatten(0, y.shape[-2:])
        return self.out_proj((y * gate).flatten(-2).to(hidden.dtype))

    def _heads(self, vectors: Tensor, norm: nn.Module, bias: Tensor) -> Tensor:
        """`[B, L, G * N]`, normed and with each head's bias, as `[B, L, H, N]` in float64."""
        normed = norm(vectors.unflatten(-1, (self.n_groups, -1)))
        return normed.repeat_interleave(self.num_heads // self.n_groups, dim=-2).double() + bias.squeeze(1)


class Mamba3Block(GradientCheckpointingLayer):
    """A layer: the mixer of the norm, added to the residual stream."""

    def __init__(self, config: Mamba3Config, layer_idx: int) -> None:
        super().__init__()
        self.norm = Mamba3RMSNorm(config.hidden_size, config.norm_eps)
        self.mixer = Mamba3Mixer(config, layer_idx)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """From `[B, L, hidden size]` to the same."""
        return hidden + self.mixer(self.norm(hidden).to(self.mixer.in_proj.weight.dtype), attention_mask)


class Mamba3PreTrainedModel(PreTrainedModel):
    """Draws weights as flash-linear-attention does."""

    config_class = Mamba3Config
    base_model_prefix = "backbone"
    _no_split_modules = ["Mamba3Block"]  # noqa: RUF012
    _input_embed_layer = "embeddings"
    supports_gradient_checkpointing = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if not isinstance(module, Mamba3Mixer):
            return
        low, high = math.log(self.config.dt_min), math.log(self.config.dt_max)
        steps = torch.empty_like(module.dt_bias).uniform_(low, high).exp().clamp(min=self.config.dt_init_floor)
        init.copy_(module.dt_bias, steps + torch.log(-torch.expm1(-steps)))  # softplus of this is the step
        for ones in (module.D, module.B_bias, module.C_bias):
            init.ones_(ones)
        if self.config.rescale_prenorm_residual:
            bound = 1 / math.sqrt(self.config.num_hidden_layers * module.intermediate_size)
            init.uniform_(module.out_proj.weight, -bound, bound)


class Mamba3Model(Mamba3PreTrainedModel):
    """The backbone."""

    def __init__(self, config: Mamba3Config) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Mamba3Block(config, number) for number in range(config.num_hidden_layers)])
        self.norm_f = Mamba3RMSNorm(config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """The last hidden states of ids `[B, L]` or embeddings `[B, L, hidden size]`."""
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if self.config.residual_in_fp32:
            hidden = hidden.float()
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return BaseModelOutput(last_hidden_state=self.norm_f(hidden))


class Mamba3ForCausalLM(Mamba3PreTrainedModel):
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "backbone.embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: Mamba3Config) -> None:
        super().__init__(config)
        self.backbone = Mamba3Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, **options: Any) -> CausalLMOutput:
        """Logits `[B, L, V]`; arguments as of `Mamba3Model`."""
        hidden = self.backbone(input_ids, **options).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden.to(self.lm_head.weight.dtype)))


def register() -> None:
    """Makes the classes known to transformers."""
    register_classes(Mamba3Config, Mamba3Model, Mamba3ForCausalLM)


register()
