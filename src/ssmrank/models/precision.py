"""Which device computes, and the number format of its matrix products."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import nn

from ssmrank.errors import UserError
from ssmrank.gpus import own_gpu
from ssmrank.kernels.dispatch import SMALLEST_FLOAT8_CAPABILITY, multiplies_float8

Precision = Literal["fp32", "bf16", "fp8"]


def resolve_precision(wanted: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """ "auto" is bf16 where the device has instructions for it (a GPU since Ampere, a CPU with AVX512-BF16 or AMX).

    Raises UserError for fp8 if the device cannot multiply 8-bit floats.
    """
    if wanted == "fp8" and not multiplies_float8(device):
        raise UserError(
            f"precision fp8: {device_name(device)} does not multiply 8-bit floats; choose bf16 or fp32, or run on "
            "a GPU of compute capability {}.{} or more".format(*SMALLEST_FLOAT8_CAPABILITY)
        )
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which matrix products over float32 weights run in this precision.

    For fp8 it is bf16, for the products that have no 8-bit weights.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision != "fp32")


def rounded_weights(model: nn.Module, precision: Precision) -> dict[str, nn.Parameter]:
    """The parameters that autocast rounds wherever they are used: weights of linear layers and of nothing else."""
    if precision == "fp32":
        return {}
    modules = list(model.modules())
    linear = {id(module.weight) for module in modules if isinstance(module, nn.Linear)}
    others = [module for module in modules if not isinstance(module, nn.Linear)]
    linear -= {id(parameter) for module in others for parameter in module.parameters(recurse=False)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in linear}


def device_name(device: torch.device) -> str:
    """The name for people: a GPU's model, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def default_device() -> torch.device:
    """A GPU if there is one, else the CPU. Of several GPUs it is one that no other process of ours uses (`gpus.py`)."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ or torch.cuda.device_count() == 1:
        return torch.device("cuda")  # each of several processes takes its own
    device = torch.device("cuda", own_gpu(torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return device
