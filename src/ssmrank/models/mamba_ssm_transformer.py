"""Checkpoints of `mamba_ssm` whose layers are all attention and an MLP (`state-spaces/transformerpp-2.7b`), as Llamas.

Gu and Dao call this architecture Transformer++ (Mamba, section 4.2). Layer by layer it is Llama's: RMSNorm, rotary
positions over whole heads, SwiGLU. Two things differ from transformers' names: queries, keys and values are one matrix
(`in_proj`), and so are the MLP's two inputs (`fc1`: what is gated, then the gate).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ssmrank.errors import UserError

_MULTIPLE = 128
"""`mamba_ssm` rounds an MLP's width up to a multiple of this."""

_KNOWN = {
    *("causal", "num_heads", "num_heads_kv", "head_dim", "rotary_emb_dim", "rotary_emb_base"),
    *("qkv_proj_bias", "out_proj_bias", "d_conv", "mlp_dim", "softmax_scale", "rotary_emb_interleaved"),
}


def has_no_mamba(config: Mapping[str, Any]) -> bool:
    """Whether all layers of a config of `mamba_ssm` are attention and an MLP."""
    attention = config.get("attn_layer_idx") or []
    return bool(config.get("d_intermediate")) and sorted(attention) == list(range(config["n_layer"]))


def to_llama_config(config: Mapping[str, Any], where: str, shared: Mapping[str, Any]) -> LlamaConfig:
    """The config of Llama; shared: what does not depend on the layers.

    Raises UserError for what Llama does not have.
    """
    attention = dict(config.get("attn_cfg") or {})
    unknown = sorted(set(attention) - _KNOWN)
    if unknown:
        raise UserError(f"{where}: attn_cfg.{unknown[0]} is unknown; known: {', '.join(sorted(_KNOWN))}")
    if "num_heads" not in attention:
        raise UserError(f"{where}: attn_cfg.num_heads is missing; get the whole config.json")
    heads = attention["num_heads"]
    size = attention.get("head_dim") or config["d_model"] // heads
    bias = attention.get("qkv_proj_bias", True)
    wanted = {
        "causal": True,
        "rotary_emb_dim": size,
        "out_proj_bias": bias,
        "d_conv": 0,
        "mlp_dim": 0,
        "softmax_scale": None,
        "rotary_emb_interleaved": False,
    }
    # What mamba_ssm's attention does if a key is left out.
    found = {"causal": False, "rotary_emb_dim": 0, "out_proj_bias": True} | attention
    for name, value in wanted.items():
        if found.get(name, value) != value:
            raise UserError(f"{where}: attn_cfg.{name}: {found[name]!r} is not supported; only {value!r} is")
    return LlamaConfig(
        **shared,
        intermediate_size=-(-config["d_intermediate"] // _MULTIPLE) * _MULTIPLE,
        num_attention_heads=heads,
        num_key_value_heads=attention.get("num_heads_kv") or heads,
        head_dim=size,
        attention_bias=bias,
        rms_norm_eps=1e-5,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": float(attention.get("rotary_emb_base", 10000.0))},
    )


def to_llama_state(state: Mapping[str, torch.Tensor], config: LlamaConfig) -> dict[str, torch.Tensor]:
    """The backbone's weights under Llama's names; names that have no counterpart stay as they are."""
    shape: Any = config
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    names = {
        "norm.weight": "input_layernorm.weight",
        "norm2.weight": "post_attention_layernorm.weight",
        "mlp.fc2.weight": "mlp.down_proj.weight",
        "mixer.out_proj.weight": "self_attn.o_proj.weight",
        "mixer.out_proj.bias": "self_attn.o_proj.bias",
    }
    renamed = {}
    for name, tensor in state.items():
        layer, _, own = name.removeprefix("layers.").partition(".")
        prefix = f"layers.{layer}."
        if not name.startswith("layers."):
            renamed[{"embeddings.weight": "embed_tokens.weight", "norm_f.weight": "norm.weight"}.get(name, name)] = (
                tensor
            )
        elif own in ("mixer.in_proj.weight", "mixer.in_proj.bias") and len(tensor) == queries + 2 * keys:
            kind = own.rpartition(".")[2]
            for part, rows in zip("qkv", tensor.split([queries, keys, keys]), strict=True):
                renamed[f"{prefix}self_attn.{part}_proj.{kind}"] = rows
        elif own == "mlp.fc1.weight" and len(tensor) == 2 * config.intermediate_size:
            renamed[f"{prefix}mlp.up_proj.weight"], renamed[f"{prefix}mlp.gate_proj.weight"] = tensor.chunk(2)
        elif own != "mixer.rotary_emb.inv_freq":  # follows from the config
            renamed[prefix + names.get(own, own)] = tensor
    return renamed


def empty_llama(config: LlamaConfig) -> LlamaModel:
    """A model whose weights are still to be assigned. Rotations are no weights, so they are there already."""
    with torch.device("meta"):
        backbone = LlamaModel(config)
    backbone.rotary_emb = LlamaRotaryEmbedding(config)
    return backbone
