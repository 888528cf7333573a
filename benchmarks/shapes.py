"""Models of the benchmarks: random weights in the shapes of the real models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from ssmrank.models.backbones import new_config, random_backbone


@dataclass(frozen=True)
class Shape:
    """A model's name and its transformers config; encoders pool the first token, decoders the last."""

    name: str
    config: dict[str, Any]

    @property
    def pools_first(self) -> bool:
        return self.config["model_type"] in ("bert", "roberta", "electra", "bart")

    def ours(self, **changes: Any) -> nn.Module:
        torch.manual_seed(0)
        return random_backbone(new_config(**(self.config | changes)))

    def theirs(self, **changes: Any) -> nn.Module:
        """transformers' own model, unmodified."""
        torch.manual_seed(0)
        options = {"add_pooling_layer": False} if self.config["model_type"] == "bert" else {}
        return AutoModel.from_config(new_config(**(self.config | changes)), dtype=torch.float32, **options)


def _bert(width: int, layers: int, heads: int, vocabulary: int = 30522) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "vocab_size": vocabulary,
    }


def _opt(width: int, layers: int, heads: int, vocabulary: int = 50272, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "ffn_dim": 4 * width,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        **more,
    }


def _mamba1(width: int, layers: int, vocabulary: int = 50280) -> dict[str, Any]:
    return {
        "model_type": "mamba",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "state_size": 16,
        "expand": 2,
        "vocab_size": vocabulary,
    }


def _mamba2(width: int, layers: int, vocabulary: int = 50288, state: int = 128) -> dict[str, Any]:
    return {
        "model_type": "mamba2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "state_size": state,
        "expand": 2,
        "head_dim": 64,
        "num_heads": 2 * width // 64,
        "n_groups": 1,
        "vocab_size": vocabulary,
    }


def _bart(width: int, layers: int, heads: int, vocabulary: int = 50265) -> dict[str, Any]:
    return {
        "model_type": "bart",
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "vocab_size": vocabulary,
        "max_position_embeddings": 1024,
    }


def _llama(width: int, layers: int, heads: int, kept: int, inner: int, vocabulary: int = 128256) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kept,
        "head_dim": width // heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
    }


def _granite(width: int, attends: tuple[int, ...], layers: int, heads: int, kept: int, inner: int) -> dict[str, Any]:
    """Granite 4: Mamba-2 in all layers but those that attend, an MLP in each, no experts."""
    return {
        "model_type": "granitemoehybrid",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "layer_types": ["attention" if layer in attends else "mamba" for layer in range(layers)],
        "num_attention_heads": heads,
        "num_key_value_heads": kept,
        "shared_intermediate_size": inner,
        "intermediate_size": inner,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "mamba_n_heads": 2 * width // 32,
        "mamba_d_head": 32,
        "mamba_d_state": 128,
        "mamba_n_groups": 1,
        "mamba_expand": 2,
        "position_embedding_type": "nope",
        "vocab_size": 100352,
        "max_position_embeddings": 32768,
    }


CLASSES: dict[str, list[Shape]] = {
    "4M": [
        Shape("BERT", _bert(256, 4, 4, 8192)),
        Shape("OPT", _opt(256, 4, 4, 8192)),
        Shape("Mamba-1", _mamba1(256, 4, 8192)),
        Shape("Mamba-2", _mamba2(256, 4, 8192, state=64)),
    ],
    "130M": [
        Shape("BERT-base", _bert(768, 12, 12)),
        Shape("OPT-125M", _opt(768, 12, 12)),
        Shape("Mamba-1-130M", _mamba1(768, 24)),
        Shape("Mamba-2-130M", _mamba2(768, 24)),
    ],
    "330M": [
        Shape("BERT-large", _bert(1024, 24, 16)),
        Shape("OPT-350M", _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False)),
        Shape("Mamba-1-370M", _mamba1(1024, 48)),
        Shape("Mamba-2-370M", _mamba2(1024, 48)),
    ],
    "1.3B": [
        Shape("OPT-1.3B", _opt(2048, 24, 32)),
        Shape("Llama-3.2-1B", _llama(2048, 16, 32, 8, 8192)),
        Shape("Mamba-2-1.3B", _mamba2(2048, 48)),
    ],
    # These have classes of their own, because the training benchmarks run every model of a class.
    "400M": [Shape("BART-large", _bart(1024, 12, 16))],
    "1.4B": [Shape("Mamba-1-1.4B", _mamba1(2048, 48))],
    "hybrid": [Shape("Granite-4-H-350M", _granite(768, (10, 13, 17, 27), 32, 12, 4, 2048))],
}
"""The models of each size class."""
