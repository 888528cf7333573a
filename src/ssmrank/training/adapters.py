"""Adapters of low rank (LoRA, Hu et al. 2022) by peft: y = W x + (alpha / rank) B A dropout(x), where W is frozen.

The names of modules and weights are peft's while a training runs. At its end the products are added to the weights of
the model that it began with, so its checkpoint is like any other. A folder beside it has the adapters in peft's format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssmrank.config.trainings import Lora
from ssmrank.errors import UserError
from ssmrank.models.packed_model import PackedModel
from ssmrank.models.precision import Precision, rounded_weights
from ssmrank.training.extras import import_quietly

M = TypeVar("M", bound=PackedModel)

FOLDER = "adapter"
"""In a checkpoint's folder: the adapters in peft's format."""

_BACKBONE = "backbone."
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"
"""Ends of the names of an adapter's two matrices, [rank, inputs] and [outputs, rank]."""


def add_adapters(model: PackedModel, lora: Lora, precision: Precision) -> None:
    """Freezes the backbone and adds adapters to its linear layers, in place; a head is still trained as a whole.

    A first adapter matrix is drawn from torch's generator, the second is zero, so the model computes what it did.
    Where autocast would round a frozen weight for each pass, only the rounded one is kept, which gives the same bits.
    Raises UserError for a name that no linear layer has.
    """
    peft = import_quietly("peft")
    # Without the model's config, which would make peft refuse Mamba's output projections: transformers' fused kernels
    # would pass over their adapters, those here do not.
    peft.inject_adapter_in_model(_config(model.backbone, lora), nn.ModuleDict({"backbone": model.backbone}))
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast does this, in one step
    for parameter in rounded_weights(model, precision).values():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()


def merged(trained: Mapping[str, Tensor], model: M, lora: Lora) -> M:
    """`model`, as it was before `add_adapters`, with the trained weights: products are added, others are replaced.

    trained: the weights that were trained, by name, on the CPU.
    """
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in trained.items():
            if name.endswith(_A):
                layer = name.removesuffix(_A)
                own[f"{layer}.weight"] += lora.alpha / lora.rank * (trained[layer + _B] @ tensor)
            elif not name.endswith(_B):
                own[name].copy_(tensor)
    return model


def write_adapters(folder: Path, trained: Mapping[str, Tensor], backbone: Any, lora: Lora, base: str) -> None:
    """Writes a folder for `peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder)`.

    trained: as for `merged`; the head's weights go into a file of their own. base: what peft is told of the model
    that the adapters belong to, such as its name on the hub.
    """
    config = _config(backbone, lora)
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)
    adapters, others = dict[str, Tensor](), dict[str, Tensor]()
    names = _names_of_modules(backbone)
    for name, tensor in trained.items():
        if name.endswith((_A, _B)):
            layer, end = name.removeprefix(_BACKBONE).split(".lora_")
            for one in names[layer]:
                adapters[f"base_model.model.{one}.lora_{end.replace('.default.', '.')}"] = _copy(tensor)
        elif not name.startswith(_BACKBONE):
            others[name] = tensor.contiguous()
    save_file(adapters, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if others:
        save_file(others, folder / "head.safetensors", metadata={"format": "pt"})


def linear_layers(backbone: nn.Module) -> list[str]:
    """The names that a backbone's linear layers have within their modules, such as q_proj.

    Layers that have only a number are those of Zamba2's own adapters of low rank, and get no others.
    """
    named = backbone.named_modules()
    names = {name.rpartition(".")[2] for name, module in named if isinstance(module, nn.Linear)}
    return sorted(name for name in names if not name.isdecimal())


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _names_of_modules(backbone: nn.Module) -> dict[str, list[str]]:
    """All names of each module, by the first one. transformers has a module for each name."""
    found: dict[nn.Module, list[str]] = {}
    for name, module in backbone.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(name)
    return {names[0]: names for names in found.values()}


def _config(backbone: Any, lora: Lora) -> Any:
    known = linear_layers(backbone)
    unknown = [] if lora.modules == "all" else [name for name in lora.modules if name not in known]
    if unknown:
        raise UserError(
            f"trainings: lora.modules: {unknown[0]!r} is no linear layer of this model ({backbone.config.model_type}); "
            f"it has {', '.join(known)}"
        )
    return import_quietly("peft").LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=known if lora.modules == "all" else lora.modules,
    )
