"""Small shapes of every architecture, for suites that test all of them alike."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ssmrank.models.architectures import MODEL_TYPES, architecture_of

# Where flash-linear-attention is installed, transformers would run its kernels on a CPU too, which cannot.
sys.modules["fla"] = None  # type: ignore[assignment]
importlib.import_module("transformers.models.qwen3_5.modeling_qwen3_5")
del sys.modules["fla"]

_USUAL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    # 0.02 is meant for widths of many hundreds; at this width attention would hardly learn.
    "initializer_range": 0.2,
}
"""The config of an architecture that has none of its own below."""

_HYBRID = {
    **_USUAL,
    "initializer_range": 0.1,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
"""Of models with Mamba-2 and attention."""

_GRANITE = {
    "num_local_experts": 0,
    "shared_intermediate_size": 64,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
}

_FALCON = {
    **_HYBRID,
    "num_hidden_layers": 2,
    "mamba_d_ssm": 48,
    "mamba_n_heads": 3,
    "embedding_multiplier": 3.0,
    "mlp_multipliers": [0.9, 0.4],
    "key_multiplier": 0.4,
    "attention_in_multiplier": 1.5,
    "attention_out_multiplier": 0.9,
    "ssm_multipliers": [0.35, 0.5, 1.2, 0.7, 0.8],
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.6,
}

_NEMOTRON = {
    **{key: _HYBRID[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")},
    "initializer_range": 0.1,
    "head_dim": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "chunk_size": 8,
    "time_step_min": 0.05,  # some of the steps are shorter, and so become this
    "time_step_floor": 0.05,
}

_JAMBA = {
    **_USUAL,
    "initializer_range": 0.1,
    "num_key_value_heads": 2,
    "num_experts": 1,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
    "attn_layer_period": 2,
}

_ZAMBA = {
    **_USUAL,
    "initializer_range": 0.05,  # a block's norms amplify rounding errors of wider weights
    "mamba_d_state": 16,
    "n_mamba_heads": 4,
    "chunk_size": 8,
    "adapter_rank": 16,
    "time_step_min": 0.05,  # some of the steps are shorter, and so become this
}

_QWEN3_5 = {
    **_USUAL,
    "initializer_range": 0.1,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
}

_DELTANET = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "initializer_range": 0.1,
    "num_heads": 2,
    "num_v_heads": 4,
    "head_dim": 16,  # flash-linear-attention's kernels take them
    "expand_v": 2.0,
}

_MAMBA3 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 16,
    "head_dim": 16,
    "chunk_size": 8,
    "initializer_range": 0.1,
}

_CONFIGS = {
    "electra": {**_USUAL, "embedding_size": 16, "initializer_range": 0.02},
    "roberta": {**_USUAL, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "init_std": 0.2,
    },
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
    },
    "llama": {**_USUAL, "num_key_value_heads": 2, "initializer_range": 0.02},
    # Windows are shorter than the tests' sequences. The last layer has one in the second shape alone.
    "gemma3_text": {
        **_USUAL,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 12,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma3_text-ends-in-window": {
        **_USUAL,
        "model_type": "gemma3_text",
        "num_key_value_heads": 4,
        "head_dim": 8,
        "sliding_window": 20,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "qwen3_5_text": {**_QWEN3_5, "layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text-attends-first": {
        **_QWEN3_5,
        "model_type": "qwen3_5_text",
        "layer_types": ["full_attention", "linear_attention"],
    },
    "gated_deltanet": {**_DELTANET, "allow_neg_eigval": True},
    "gated_deltanet-attends-last": {
        **_DELTANET,
        "model_type": "gated_deltanet",
        "output_gate_activation": "sigmoid",
        "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": True},
    },
    # Without filters and gates; a window that is shorter than the tests' sequences, in the middle and at the end.
    "gated_deltanet-windowed": {
        **_DELTANET,
        "model_type": "gated_deltanet",
        "num_hidden_layers": 3,
        "use_short_conv": False,
        "use_gate": False,
        "norm_eps": 1e-3,  # without filters, what the first tokens read is little more than rounding errors
        "attn": [
            {"layers": [1], "num_heads": 2, "window_size": 8, "rope_theta": 100.0},
            {"layers": [2], "num_heads": 2, "window_size": 20, "rope_theta": 100.0},
        ],
    },
    "qwen3": {**_USUAL, "num_key_value_heads": 2, "head_dim": 16},
    # The window is shorter than the tests' sequences. The last layer uses it here, but not in the next config.
    "modernbert": {**_USUAL, "local_attention": 8, "pad_token_id": 0},
    "modernbert-deep": {
        **_USUAL,
        "model_type": "modernbert",
        "num_hidden_layers": 4,
        "local_attention": 8,
        "pad_token_id": 0,
    },
    "modernbert-decoder": {**_USUAL, "local_attention": 16, "pad_token_id": 0},  # a window of 8 tokens
    "modernbert-decoder-deep": {
        **_USUAL,
        "model_type": "modernbert-decoder",
        "num_hidden_layers": 4,
        "local_attention": 16,
        "pad_token_id": 0,
    },
    "gpt-neox-sequential": {**_USUAL, "model_type": "gpt_neox", "use_parallel_residual": False},
    # As OPT-350m: norms after the layers, word embeddings narrower than the layers.
    "opt-350m": {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "init_std": 0.2,
    },
    # As Llama-3.2: grouped heads, tied embeddings, rotary frequencies stretched at long wavelengths.
    "llama-3.2": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 16,
        },
        "initializer_range": 0.2,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "expand": 2},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 16,
        "expand": 2,
        "head_dim": 16,
        "num_heads": 4,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "mamba3": _MAMBA3,
    "mamba3-normed": {
        **_MAMBA3,
        "model_type": "mamba3",
        "n_groups": 2,
        "rope_fraction": 1.0,
        "is_outproj_norm": True,
        "use_bias": True,
    },
    # Heads and states that Triton's kernels take.
    "mamba3-wide": {**_MAMBA3, "model_type": "mamba3", "hidden_size": 64, "head_dim": 64, "state_size": 64},
    "bamba": {**_HYBRID, "attn_layer_indices": [1]},
    # As Bamba and Granite 4 themselves, whose last layers attend.
    "bamba-attends-last": {**_HYBRID, "model_type": "bamba", "attn_layer_indices": [0, 2], "num_key_value_heads": 4},
    # Heads and states that Triton's kernels take.
    "bamba-wide": {
        **_HYBRID,
        "model_type": "bamba",
        "hidden_size": 64,
        "attn_layer_indices": [1],
        "mamba_n_heads": 2,
        "mamba_d_head": 64,
        "mamba_d_state": 64,
    },
    "falcon_h1": _FALCON,
    "falcon_h1-normed": {
        **_FALCON,
        "model_type": "falcon_h1",
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": False,
        "mamba_proj_bias": True,
        "mamba_n_groups": 3,
    },
    "falcon_h1-norm-first": {
        **_FALCON,
        "model_type": "falcon_h1",
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": True,
    },
    "granitemoehybrid": {
        **_HYBRID,
        **_GRANITE,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "granitemoehybrid-attends-last": {
        **_HYBRID,
        **_GRANITE,
        "model_type": "granitemoehybrid",
        "position_embedding_type": "rope",
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    },
    "jamba": {**_JAMBA, "num_hidden_layers": 3, "attn_layer_offset": 1},
    "jamba-attends-last": {**_JAMBA, "model_type": "jamba", "num_hidden_layers": 2, "attn_layer_offset": 1},
    "nemotron_h": {
        **_NEMOTRON,
        "layers_block_type": ["linear_attention", "full_attention", "mlp", "linear_attention"],
    },
    "nemotron_h-attends-last": {
        **_NEMOTRON,
        "model_type": "nemotron_h",
        "layers_block_type": ["linear_attention", "mlp", "full_attention"],
    },
    "nemotron_h-ends-in-mlp": {
        **_NEMOTRON,
        "model_type": "nemotron_h",
        "layers_block_type": ["full_attention", "linear_attention", "mlp"],
    },
    # Layers 0 and 2 use one block, with adapters of their own, layer 1 another one.
    "zamba2": {
        **_ZAMBA,
        "num_hidden_layers": 4,
        "layers_block_type": ["hybrid", "hybrid", "hybrid", "linear_attention"],
        "num_mem_blocks": 2,
        "use_mem_rope": True,
        "use_shared_attention_adapter": True,
        "mamba_ngroups": 2,
    },
    "zamba2-attends-last": {
        **_ZAMBA,
        "model_type": "zamba2",
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "num_key_value_heads": 2,
        "add_bias_linear": True,
    },
    "mamba2-wide": {
        "model_type": "mamba2",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 64,
        "expand": 2,
        "head_dim": 64,
        "num_heads": 2,
        "n_groups": 1,
    },
}

HYBRIDS = [shape for shape in _CONFIGS if {"mamba_d_state", "ssm_state_size"} & _CONFIGS[shape].keys()]
"""Shapes with Mamba-2 and attention."""

DELTA_NETS = [shape for shape in _CONFIGS if shape.startswith(("qwen3_5_text", "gated_deltanet"))]
"""Shapes with the gated delta rule."""

_NEWER = (
    *("qwen3", "gemma3_text", "gemma3_text-ends-in-window"),
    *("mamba3", "mamba3-normed", "mamba3-wide"),
    *DELTA_NETS,
)

VARIED = frozenset([*HYBRIDS, *_NEWER])
"""Shapes whose vectors are drawn too, since transformers begins with constants."""

SHAPES = [*MODEL_TYPES, *(name for name in _CONFIGS if name not in MODEL_TYPES)]
"""Every architecture, and variants of some that are built differently."""


def tiny_config(shape: str) -> dict[str, Any]:
    """A shape's transformers config, without the vocabulary."""
    return {"model_type": shape} | _CONFIGS.get(shape, _USUAL)


def is_causal(shape: str) -> bool:
    """Whether the shape's architecture is causal."""
    return architecture_of(tiny_config(shape)["model_type"]).causal


def kind_of(shape: str) -> str:
    """The kind of reranker that a shape makes: E, ED or D."""
    return "D" if is_causal(shape) else "ED" if shape == "bart" else "E"


CAUSAL = [shape for shape in SHAPES if is_causal(shape)]
