"""Checkpoints in the layout of the `mamba_ssm` library (`state-spaces/mamba-*`, `state-spaces/mamba2-*`).

Such a folder holds a `config.json` with `d_model`, `n_layer`, `ssm_cfg` and others, and the state dict of a language
model in `pytorch_model.bin` or `model.safetensors`. Three things differ from transformers' names: the prefix, the word
embeddings, and the language model's head, which is tied to the embeddings (`tie_embeddings`) and not needed for
reranking. Shapes and the order of channels are the same. A model of attention and MLPs alone is a Llama
(`mamba_ssm_transformer`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import LlamaConfig, Mamba2Config, Mamba2Model, MambaConfig, MambaModel, PreTrainedModel

from ssmrank.errors import UserError
from ssmrank.models.mamba_ssm_transformer import empty_llama, has_no_mamba, to_llama_config, to_llama_state
from ssmrank.models.reading import read_tensors, reading

State = dict[str, torch.Tensor]
Config = MambaConfig | Mamba2Config | LlamaConfig

_WEIGHTS = "pytorch_model.bin"

# From the names of settings in ssm_cfg to those of transformers.
_SHARED = {
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "dt_min": "time_step_min",
    "dt_max": "time_step_max",
    "dt_init_floor": "time_step_floor",
}
_KEYS = {
    "Mamba1": _SHARED
    | {"dt_rank": "time_step_rank", "dt_init": "time_step_init_scheme", "dt_scale": "time_step_scale"},
    "Mamba2": _SHARED | {"headdim": "head_dim", "ngroups": "n_groups", "chunk_size": "chunk_size"},
}
# Defaults of mamba_ssm that may differ from those of transformers.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Mamba1": {"d_state": 16},
    "Mamba2": {"d_state": 128, "headdim": 64, "ngroups": 1, "chunk_size": 256},
}
# Settings of speed or initialisation, and settings whose only supported value is the default.
_IGNORED = {"use_fast_path", "use_mem_eff_path", "conv_init", "A_init_range", "sequence_parallel"}
_FIXED: dict[str, Any] = {
    "d_ssm": None,
    "D_has_hdim": False,
    "rmsnorm": True,
    "norm_before_gate": False,
    "dt_limit": [0.0, float("inf")],
}
_NEOX_END_OF_TEXT = 0


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a config.json comes from `mamba_ssm`."""
    return "model_type" not in config and {"d_model", "n_layer"} <= set(config)


def to_transformers_config(
    config: Mapping[str, Any], where: str = "config"
) -> MambaConfig | Mamba2Config | LlamaConfig:
    """Converts a config of `mamba_ssm` to one of transformers.

    Raises UserError for what transformers' models cannot express: attention or MLPs in some layers, LayerNorm and some
    settings of Mamba-2's mixer and of attention.
    """
    if not config.get("rms_norm", True):
        raise UserError(f"{where}: rms_norm: false (LayerNorm) is not supported")
    shared = {
        "hidden_size": config["d_model"],
        "num_hidden_layers": config["n_layer"],
        "vocab_size": _padded_vocabulary(config),
        "tie_word_embeddings": config.get("tie_embeddings", True),
        "pad_token_id": _NEOX_END_OF_TEXT,
        "bos_token_id": _NEOX_END_OF_TEXT,
        "eos_token_id": _NEOX_END_OF_TEXT,
    }
    if has_no_mamba(config):
        return to_llama_config(config, where, shared)
    ssm = dict(config.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    if layer not in _KEYS:
        raise UserError(f"{where}: ssm_cfg.layer {layer!r} is unknown; known: {', '.join(_KEYS)}")
    if config.get("attn_layer_idx") or config.get("d_intermediate"):
        raise UserError(
            f"{where}: attention layers and MLPs (attn_layer_idx, d_intermediate) are not supported, unless every "
            "layer has both"
        )
    for name in [name for name in ssm if name in _FIXED]:
        value = ssm.pop(name)
        if (list(value) if isinstance(value, tuple) else value) != _FIXED[name]:
            raise UserError(f"{where}: ssm_cfg.{name}: {value!r} is not supported; only {_FIXED[name]!r} is")
    unknown = sorted(set(ssm) - set(_KEYS[layer]) - _IGNORED)
    if unknown:
        raise UserError(f"{where}: ssm_cfg.{unknown[0]} is unknown; known: {', '.join(_KEYS[layer])}")
    ssm = _DEFAULTS[layer] | {name: value for name, value in ssm.items() if name not in _IGNORED}
    values = {_KEYS[layer][name]: value for name, value in ssm.items()} | shared
    values |= {"residual_in_fp32": config.get("residual_in_fp32", True), "layer_norm_epsilon": 1e-5}
    if layer == "Mamba1":
        return MambaConfig(**values)
    values["num_heads"] = values.get("expand", 2) * config["d_model"] // values["head_dim"]
    return Mamba2Config(**values)


def from_transformers_config(config: Any) -> dict[str, Any]:
    """Converts a config of transformers to one of `mamba_ssm`. The vocabulary is taken as already padded."""
    layer = "Mamba2" if config.model_type == "mamba2" else "Mamba1"
    ssm = {name: getattr(config, theirs) for name, theirs in _KEYS[layer].items()}
    return {
        "d_model": config.hidden_size,
        "d_intermediate": 0,
        "n_layer": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {"layer": layer} | ssm,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": True,
    }


def to_transformers_state(state: Mapping[str, torch.Tensor]) -> State:
    """The backbone's weights, renamed for transformers."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("backbone."):
            name = name.removeprefix("backbone.")
            renamed["embeddings.weight" if name == "embedding.weight" else name] = tensor
    return renamed


def from_transformers_state(state: Mapping[str, torch.Tensor]) -> State:
    """The weights, renamed for `mamba_ssm`'s language model, whose head is tied to the embeddings."""
    renamed = {}
    for name, tensor in state.items():
        renamed["backbone." + ("embedding.weight" if name == "embeddings.weight" else name)] = tensor
    renamed["lm_head.weight"] = renamed["backbone.embedding.weight"]
    return renamed


def load(folder: str | Path, dtype: torch.dtype | Literal["auto"] = torch.float32) -> PreTrainedModel:
    """The backbone of such a folder as a model of transformers.

    Raises UserError if weights are missing, left over or of other shapes.
    """
    folder = Path(folder)
    config = to_transformers_config(json.loads((folder / "config.json").read_text()), f"{folder}/config.json")
    state = to_transformers_state(_read_weights(folder))
    if dtype != "auto":
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    if isinstance(config, LlamaConfig):
        backbone: PreTrainedModel = empty_llama(config)
        state = to_llama_state(state, config)
    else:
        backbone = _empty_mamba(config)
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    missing = [name for name in expected if name not in state]
    if missing:
        raise UserError(
            f"{folder}: its weights lack {len(missing)}, such as backbone.{', backbone.'.join(missing[:3])}"
        )
    for name, tensor in state.items():
        if tensor.shape != expected.get(name):
            wanted = tuple(expected[name]) if name in expected else "no such weight"
            raise UserError(f"{folder}: backbone.{name} is {tuple(tensor.shape)}, config.json asks for {wanted}")
    backbone.load_state_dict(state, assign=True)
    backbone.requires_grad_(True)
    return backbone.eval()


def _empty_mamba(config: MambaConfig | Mamba2Config) -> PreTrainedModel:
    with torch.device("meta"):  # weights are assigned later, so none need be drawn
        return Mamba2Model(config) if isinstance(config, Mamba2Config) else MambaModel(config)


def save(backbone: PreTrainedModel, folder: str | Path) -> None:
    """Writes config.json and pytorch_model.bin for `mamba_ssm` into an existing folder."""
    folder = Path(folder)
    torch.save(from_transformers_state(backbone.state_dict()), folder / _WEIGHTS)
    text = json.dumps(from_transformers_config(backbone.config), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _padded_vocabulary(config: Mapping[str, Any]) -> int:
    multiple = config.get("pad_vocab_size_multiple", 8)
    return -(-config["vocab_size"] // multiple) * multiple


def _read_weights(folder: Path) -> State:
    safe = folder / "model.safetensors"
    if safe.is_file():
        return read_tensors(safe)
    path = folder / _WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder}: has neither {_WEIGHTS} nor {safe.name}; get the whole checkpoint")
    with reading(f"{path}: torch cannot read tensors from this file; get it again"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
