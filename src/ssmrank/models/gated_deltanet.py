"""Gated DeltaNet as flash-linear-attention stores it: Yang, Kautz & Hatamizadeh 2024, "Gated Delta Networks".

Config, modules and weights have that library's names, so its checkpoints are read without it. Some layers may attend.
The modules compute step by step in plain PyTorch; on packed batches `models.delta_net` replaces the mixer's pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from ssmrank.kernels.delta_rule import DeltaInputs
from ssmrank.kernels.delta_rule.reference import delta_rule
from ssmrank.models.architecture import is_positive
from ssmrank.models.delta_net import delta_inputs
from ssmrank.models.own_classes import register_classes

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}
"""Of the output gate, by the name in a config."""


@strict
class GatedDeltaNetConfig(PreTrainedConfig):
    """The values that say what is computed; others of flash-linear-attention choose its kernels and are kept."""

    model_type = "gated_deltanet"

    vocab_size: int = 32000
    hidden_size: int = 2048
    num_hidden_layers: int = 21
    num_heads: int = 6
    num_v_heads: int | None = None
    head_dim: int = 256
    expand_v: float | int = 2.0
    use_gate: bool = True
    output_gate_activation: str = "swish"
    use_short_conv: bool = True
    conv_size: int = 4
    allow_neg_eigval: bool = False
    hidden_ratio: int | float | None = 4
    intermediate_size: int | None = None
    hidden_act: str = "swish"
    attn: dict[str, Any] | list[dict[str, Any]] | None = None
    attnres_block_size: int | None = None
    max_position_embeddings: int | None = 2048
    norm_eps: float = 1e-6
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def value_heads(config: Any) -> int:
    """How many heads of values a mixer has."""
    return config.num_heads if config.num_v_heads is None else config.num_v_heads


def inner_size(config: Any) -> int:
    """The width of the MLPs: as given, or two thirds of `hidden_ratio` widths, rounded up to a multiple of 256."""
    if config.intermediate_size is not None:
        return config.intermediate_size
    ratio = 4 if config.hidden_ratio is None else config.hidden_ratio
    return -(-int(config.hidden_size * ratio * 2 / 3) // 256) * 256


class Attends(NamedTuple):
    """How a layer attends; window: how many tokens it sees, itself among them."""

    heads: int
    key_heads: int
    bias: bool
    window: int | None
    theta: float


def attention_layers(config: Any) -> dict[int, Attends]:
    """The layers of a config that attend, by their number. Raises ValueError for what makes no sense."""
    found: dict[int, Attends] = {}
    for spec in [config.attn] if isinstance(config.attn, dict) else config.attn or []:
        layers: Any = spec.get("layers")
        heads: Any = spec.get("num_heads")
        key_heads, window = spec.get("num_kv_heads"), spec.get("window_size")
        key_heads = heads if key_heads is None else key_heads
        for name, value in (("num_heads", heads), ("num_kv_heads", key_heads), ("window_size", window)):
            if not is_positive(value) and (value is not None or name == "num_heads"):
                raise ValueError(f"attn.{name} is {value!r}, but must be a positive integer")
        theta = spec.get("rope_theta", 10000.0)
        if not isinstance(theta, int | float) or not 0 < theta < math.inf:
            raise ValueError(f"attn.rope_theta is {theta!r}, but must be a positive number")
        if not isinstance(layers, Sequence) or not all(isinstance(layer, int) for layer in layers):
            raise ValueError(f"attn.layers is {layers!r}, but must be a list of layers' numbers")
        last = config.num_hidden_layers - 1
        for layer in layers:
            if not 0 <= layer <= last:
                raise ValueError(f"attn.layers has {layer}, but layers are numbered 0 to {last}")
            if layer in found:
                raise ValueError(f"attn.layers has {layer} twice")
            found[layer] = Attends(heads, key_heads, bool(spec.get("qkv_bias", False)), window, theta)
    return found


class GatedDeltaNet(nn.Module):
    """The mixer."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    a_proj: nn.Linear
    b_proj: nn.Linear

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.num_k_heads, self.num_v_heads = config.num_heads, value_heads(config)
        self.head_k_dim, self.head_v_dim = config.head_dim, round(config.head_dim * config.expand_v)
        self.key_dim, self.value_dim = self.num_k_heads * self.head_k_dim, self.num_v_heads * self.head_v_dim
        self.largest_rate = 2.0 if config.allow_neg_eigval else 1.0
        self.gates, self.convolves = config.use_gate, config.use_short_conv
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[config.output_gate_activation]
        for part, width in (("q", self.key_dim), ("k", self.key_dim), ("v", self.value_dim)):
            setattr(self, f"{part}_proj", nn.Linear(config.hidden_size, width, bias=False))
            if self.convolves:
                taps = config.conv_size
                conv = nn.Conv1d(width, width, taps, groups=width, padding=taps - 1, bias=False)
                setattr(self, f"{part}_conv1d", conv)
        for part in ("a", "b"):
            setattr(self, f"{part}_proj", nn.Linear(config.hidden_size, self.num_v_heads, bias=False))
        self.A_log = nn.Parameter(torch.zeros(self.num_v_heads))
        self.dt_bias = nn.Parameter(torch.zeros(self.num_v_heads))
        if self.gates:
            self.g_proj = nn.Linear(config.hidden_size, self.value_dim, bias=False)
        self.o_norm = nn.RMSNorm(self.head_v_dim, eps=config.norm_eps)
        self.o_proj = nn.Linear(self.value_dim, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
        """From [B, L, hidden size] to the same; attention_mask: [B, L], 0 for padding, which is left or right."""
        rows, length = hidden_states.shape[:2]
        if attention_mask is not None:  # padding then writes nothing
            hidden_states = hidden_states * attention_mask[..., None].to(hidden_states.dtype)
        mixed = torch.cat([self._mixed(part, hidden_states) for part in "qkv"], dim=-1)
        inputs = DeltaInputs(*(part.float() for part in delta_inputs(self, mixed, *self.steps(hidden_states))))
        starts = torch.arange(0, rows * length + 1, length)
        y, _final = delta_rule(DeltaInputs(*(part.flatten(0, 1) for part in inputs)), starts)
        return self.out(y.to(mixed.dtype).unflatten(0, (rows, length)), hidden_states)

    def steps(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What decays depend on, and the rates at which states give way to values, each [.., heads of values]."""
        return self.a_proj(hidden), self.largest_rate * self.b_proj(hidden).float().sigmoid()

    def out(self, y: Tensor, hidden: Tensor) -> Tensor:
        """From what was read from states, [.., heads, head size], to the mixer's output; hidden: what it was given."""
        y = self.o_norm(y)
        if self.gates:
            y = y * self.activation(self.g_proj(hidden)).unflatten(-1, y.shape[-2:])
        return self.o_proj(y.flatten(-2))

    def _mixed(self, part: str, hidden: Tensor) -> Tensor:
        projected = getattr(self, f"{part}_proj")(hidden)
        if self.convolves:
            conv = getattr(self, f"{part}_conv1d")
            projected = conv(projected.transpose(1, 2))[..., : hidden.shape[1]].transpose(1, 2)
        return F.silu(projected)


class GatedDeltaNetAttention(nn.Module):
    """Causal attention with rotary positions."""

    is_causal = True

    def __init__(self, config: Any, layer_idx: int, attends: Attends) -> None:
        super().__init__()
        self.config, self.layer_idx, self.theta = config, layer_idx, attends.theta
        self.sliding_window = attends.window
        self.head_dim = config.hidden_size // attends.heads
        self.scaling = self.head_dim**-0.5
        self.num_key_value_groups = attends.heads // attends.key_heads
        keys = attends.key_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=attends.bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=attends.bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=attends.bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def rotations(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the tokens' rotations, each [B, L, head size]."""
        evens = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=position_ids.device)
        angles = position_ids[..., None].float() * self.theta ** -(evens / self.head_dim)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def forward(
        self, hidden_states: Tensor, position_ids: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        """From [B, L, hidden size] to the same; without the option `packed`, attention_mask: [B, L], 0 for padding."""
        size = *hidden_states.shape[:2], -1, self.head_dim
        q, k, v = (project(hidden_states).view(size) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        q, k = apply_rotary_pos_emb(q, k, *self.rotations(position_ids, hidden_states.dtype))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mask = None if "packed" in options else self._mask(q, attention_mask)
        options |= {"scaling": self.scaling, "sliding_window": self.sliding_window, "dropout": 0.0}
        return self.o_proj(attend(self, q, k, v, mask, **options)[0].flatten(2))

    def _mask(self, q: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What is added to scores, [B or 1, 1, L, L]."""
        length = q.shape[2]
        seen = torch.ones(1, 1, length, length, dtype=torch.bool, device=q.device).tril()
        if self.sliding_window is not None:
            seen = seen.triu(1 - self.sliding_window)
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None, :].bool()
        return torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill_(~seen, torch.finfo(q.dtype).min)


class GatedDeltaNetMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = inner_size(config)
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """From [.., hidden size] to the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class GatedDeltaNetBlock(GradientCheckpointingLayer):
    """A layer: a mixer, or attention in its place, and an MLP."""

    def __init__(self, config: Any, layer_idx: int, attends: Attends | None) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        if attends is None:
            self.attn: nn.Module = GatedDeltaNet(config, layer_idx)
        else:
            self.attn = GatedDeltaNetAttention(config, layer_idx, attends)
        self.mlp_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = GatedDeltaNetMLP(config)

    def forward(self, hidden_states: Tensor, **options: Any) -> Tensor:
        """From [B, L, hidden size] to the same."""
        hidden_states = hidden_states + self.attn(self.attn_norm(hidden_states), **options)
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


class GatedDeltaNetPreTrainedModel(PreTrainedModel):
    """What both models share."""

    config_class = GatedDeltaNetConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GatedDeltaNetBlock"]  # noqa: RUF012
    _input_embed_layer = "embeddings"
    _supports_sdpa = True
    _supports_attention_backend = True
    # Early versions of the library stored a skip connection of Mamba-2's that their mixers never used.
    _keys_to_ignore_on_load_unexpected = [r"\.attn\.D$"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GatedDeltaNet):
            # Step sizes from 0.001 to 0.1, evenly by their logarithm, and rates of decay from 0 to 16.
            steps = torch.empty_like(module.dt_bias).uniform_(math.log(1e-3), math.log(0.1)).exp()
            init.copy_(module.dt_bias, steps.expm1().log())  # softplus of this is the step
            init.copy_(module.A_log, torch.empty_like(module.A_log).uniform_(1e-3, 16).log())


class GatedDeltaNetModel(GatedDeltaNetPreTrainedModel):
    """The backbone."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        attends = attention_layers(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(
            GatedDeltaNetBlock(config, number, attends.get(number)) for number in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        packed: Any = None,
        **_: Any,
    ) -> BaseModelOutput:
        """The last hidden states [B, L, hidden size]; packed: the batch, for attention and mixers of packed batches."""
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(hidden.shape[1], device=hidden.device)[None]
        options: dict[str, Any] = {"packed": packed} if packed is not None else {"attention_mask": attention_mask}
        for layer in self.layers:
            hidden = layer(hidden, position_ids=position_ids, **options)
        return BaseModelOutput(last_hidden_state=self.norm(hidden))


class GatedDeltaNetForCausalLM(GatedDeltaNetPreTrainedModel):
    """The language model, as which checkpoints are published."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = GatedDeltaNetModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, **options: Any) -> CausalLMOutput:
        """The logits [B, L, vocabulary]."""
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids, **options).last_hidden_state))


def register() -> None:
    """Makes the classes known to transformers."""
    register_classes(GatedDeltaNetConfig, GatedDeltaNetModel, GatedDeltaNetForCausalLM)


register()
