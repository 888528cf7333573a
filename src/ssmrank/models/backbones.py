"""Backbones of transformers on packed batches: loading, random weights, forward passes.

transformers' models take seconds to import, so only functions that make a backbone import them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ssmrank.errors import UserError
from ssmrank.kernels.dispatch import is_batch_invariant
from ssmrank.models.architecture import Architecture
from ssmrank.models.architectures import TEXT_PARTS, architecture_of
from ssmrank.models.packing import Packed
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reading import NO_CODE, read_json, reading

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Pooling = Literal["first", "last", "mean"]

_OF_A_LAYER = re.compile(r"(^|\.)layers?\.[0-9]+\.(?!.*rotary_emb)")
"""The name of a layer's weight. Old Llamas also store rotation tables in each layer, which may be left over."""


def load_backbone(folder: str | Path) -> PreTrainedModel:
    """A checkpoint folder's backbone in float32, ready for `packed_forward`.

    Reads the layouts of transformers and `mamba_ssm`. Raises UserError if weights are missing, left over or of other
    shapes.
    """
    from transformers import AutoModel

    from ssmrank.models import mamba_ssm_format

    config = read_backbone_config(folder)
    if mamba_ssm_format.is_original(_read_json(folder)):
        return _with_own_modules(mamba_ssm_format.load(folder))
    options = {"dtype": torch.float32, "output_loading_info": True, **_options(config)}
    own = architecture_of(config.model_type).classes
    models: Any = AutoModel if own is None else own[1]
    with reading(f"{folder}: transformers cannot load its weights; get the whole checkpoint, or correct config.json"):
        backbone, report = models.from_pretrained(folder, config=config, **options)
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{folder}: its weights lack {len(missing)} that config.json asks for, such as {', '.join(missing[:3])}; "
            "get the whole checkpoint, or correct config.json"
        )
    left = sorted(name for name in report["unexpected_keys"] if _OF_A_LAYER.search(name))
    if left:
        raise UserError(
            f"{folder}: config.json has no place for {len(left)} of its weights, such as {left[0]}; correct the number "
            "of layers there"
        )
    return _with_own_modules(backbone)


def random_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone of this shape with transformers' random initialisation, drawn from torch's generator."""
    from transformers import AutoModel

    own, options = _known(config.model_type, "config").classes, _options(config)
    if own is None and not isinstance(config, _config_class(config.model_type)):
        kind = type(config)
        raise UserError(f"config: {kind.__module__}.{kind.__name__} is not transformers' class; new_config makes one")
    _check_known(config, "config")
    with reading("config: transformers cannot make a model from it; correct its values"):
        if own is None:
            backbone = AutoModel.from_config(config, dtype=torch.float32, **options)
        else:
            options = {name: value for name, value in options.items() if name not in NO_CODE}
            backbone = own[1]._from_config(config, dtype=torch.float32, **options)
    return _with_own_modules(backbone)


def unread_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone of this shape whose weights are yet to be read.

    No weights are drawn, because that takes seconds for a large model.
    """
    from transformers.initialization import no_init_weights

    with quiet_transformers(), no_init_weights():
        backbone = random_backbone(config)
    backbone.tie_weights()  # skipped together with the initialisation
    return _with_own_modules(backbone)


def _with_own_modules(backbone: PreTrainedModel) -> PreTrainedModel:
    architecture = architecture_of(backbone.config.model_type)
    replaced = architecture.replaced
    for module in backbone.modules():
        if type(module) in replaced and not (isinstance(module, torch.nn.LayerNorm) and module.bias is None):
            module.__class__ = replaced[type(module)]
    architecture.share(backbone)
    return backbone


def read_backbone_config(folder: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint folder. Raises UserError if it is missing, damaged or not supported."""
    from ssmrank.models import mamba_ssm_format

    where = f"{folder}/config.json"
    values = _read_json(folder)
    if mamba_ssm_format.is_original(values):
        return mamba_ssm_format.to_transformers_config(values, where)
    if "model_type" not in values:
        raise UserError(f"{where}: has no model_type, nor the keys of a mamba_ssm checkpoint (d_model, n_layer)")
    part = TEXT_PARTS.get(str(values["model_type"]))
    _known(part or values["model_type"], where)
    with reading(f"{where}: transformers cannot read it; correct its values"):
        config = _config_class(values["model_type"]).from_pretrained(folder, **NO_CODE)
        if part is not None:
            config = config.get_text_config()
    _check_known(config, where)
    return config


def read_gguf_config(file: Path) -> PreTrainedConfig:
    """A GGUF file's config. Raises UserError for an unknown architecture, and transformers' errors for the rest."""
    from transformers import PreTrainedConfig

    values, _ = PreTrainedConfig.get_config_dict(file.parent, gguf_file=file.name, **NO_CODE)
    model_type = _known(values.get("model_type"), str(file)).model_type
    return _config_class(model_type).from_dict(values)


def new_config(model_type: str, **values: Any) -> PreTrainedConfig:
    """A config of these values. Raises UserError for an unknown architecture, and transformers' errors for the rest."""
    architecture_of(model_type)
    return _config_class(model_type)(**values)


def packed_forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """Last hidden states [T, `output_width`] of a packed batch, the same as running each sequence alone."""
    return architecture_of(backbone.config.model_type).forward(backbone, packed)


def pooled_forward(backbone: Any, packed: Packed, pooling: Pooling) -> torch.Tensor:
    """One state for each sequence, [S, `output_width`]: that of its first or last token, or the mean of all tokens."""
    first_token = architecture_of(backbone.config.model_type).first_token
    if pooling == "first" and first_token is not None:
        return first_token(backbone, packed)
    hidden = packed_forward(backbone, packed)
    if pooling == "mean":
        if is_batch_invariant():  # a GPU's index_add adds in any order
            return torch.segment_reduce(hidden.float(), "mean", lengths=packed.cu_seqlens.diff())
        sums = hidden.new_zeros(len(packed.lengths), hidden.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, packed.sequence_ids, hidden.float())
        return sums / packed.cu_seqlens.diff()[:, None]
    return hidden.index_select(0, packed.first if pooling == "first" else packed.last)


def scored_forward(backbone: Any, packed: Packed, pooling: Pooling) -> torch.Tensor:
    """Like `pooled_forward`, for inference: the last layer computes only the pooled tokens if it can.

    With `packed.prefix_levels` there is one state for each leaf. Raises ValueError if the model is then not causal or
    does not pool the last token.
    """
    architecture = architecture_of(backbone.config.model_type)
    if packed.prefix_levels is not None and not (architecture.causal and pooling == "last"):
        raise ValueError(f"{architecture.model_type} with pooling {pooling} cannot share the beginnings of sequences")
    if packed.kept is not None and not (architecture.causal and pooling == "last"):
        raise ValueError(f"{architecture.model_type} with pooling {pooling} keeps no states")
    if architecture.scored_token is None or pooling == "mean" or (architecture.causal and pooling == "first"):
        return pooled_forward(backbone, packed, pooling)
    return architecture.scored_token(backbone, packed, packed.first if pooling == "first" else packed.last)


def output_width(config: PreTrainedConfig) -> int:
    """Width of the last hidden states."""
    return architecture_of(config.model_type).output_width(config)


def longest_input(config: PreTrainedConfig) -> int | None:
    """The number of tokens that the position embeddings cover; None for models without them (Llama, Mamba)."""
    return architecture_of(config.model_type).longest_input(config)


def is_causal(config: PreTrainedConfig) -> bool:
    """Whether a token's state is independent of later tokens, so that sequences can share a prefix."""
    return architecture_of(config.model_type).causal


def _config_class(model_type: str) -> Any:
    """The config class of an architecture, or of a multimodal model that has it as its text part.

    It is not asked of AutoConfig: other packages put classes of their own there. flash-linear-attention does so with
    Mamba-1 and Mamba-2, and transformers imports it where it is installed.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    own = None if model_type in TEXT_PARTS else architecture_of(model_type).classes
    return getattr(transformers, CONFIG_MAPPING_NAMES[model_type]) if own is None else own[0]


def _options(config: PreTrainedConfig) -> dict[str, Any]:
    from ssmrank.models import attention

    architecture = architecture_of(config.model_type)
    return {
        **({"attn_implementation": attention.NAME} if architecture.attention else {}),
        **architecture.options,
        **NO_CODE,
    }


def _read_json(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: has no config.json; a checkpoint folder has config, weights and tokenizer")
    return read_json(path)


def _known(model_type: object, where: str) -> Architecture:
    try:
        return architecture_of(model_type)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_known(config: PreTrainedConfig, where: str) -> None:
    problem = _known(config.model_type, where).problem(config)
    if problem:
        raise UserError(f"{where}: {problem}")
