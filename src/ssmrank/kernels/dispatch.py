"""The one place that decides which implementation serves a device, a dtype and a shape.

Each function names the implementation of one operation. Nothing here computes, and no kernel is imported, so that a
process on a CPU never loads Triton and one on a GPU never loads numba.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import cache

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from ssmrank.kernels.simd import LANES

log = logging.getLogger(__name__)

WIDEST = 16384
"""The most channels that one program of a GPU's row kernels takes: it holds them all in registers."""

LARGEST_VOCABULARY = 32768
"""The most logits of a row that a GPU's program holds in registers."""

WIDEST_KEY = 256
"""The widest keys of flash-linear-attention's gated delta rule."""

SMALLEST_FLOAT8_CAPABILITY = (8, 9)
"""The first of NVIDIA's compute capabilities with products of 8-bit floats."""


_batch_invariant = ContextVar("batch_invariant", default=False)


@contextmanager
def batch_invariant() -> Iterator[None]:
    """Within it, no implementation is chosen that computes a sequence by what else is in the batch."""
    token = _batch_invariant.set(True)
    try:
        yield
    finally:
        _batch_invariant.reset(token)


def is_batch_invariant() -> bool:
    """Whether this is within `batch_invariant`."""
    return _batch_invariant.get()


class Implementation(Enum):
    """The implementation that computes an operation."""

    GPU = "Triton"
    LIBRARY = "an optional package"
    CPU = "numba"
    PLAIN = "PyTorch"


def ssd(x: Tensor, B: Tensor, *, stateless: bool) -> Implementation:
    """Of Mamba-2's mixer, x `[T, H, P]` and B `[T, G, N]`; stateless: no state goes in, and none comes out."""
    width, states = x.shape[2], B.shape[2]
    if _runs_triton(x) and _fits_ssd(width, states):
        return Implementation.GPU
    if x.is_cuda and stateless and is_available("mamba_ssm") and not is_batch_invariant():
        return Implementation.LIBRARY
    if _runs_numba(x) and width % LANES == 0 and states % LANES == 0:
        return Implementation.CPU
    return Implementation.PLAIN


def ssd_sizes(x: Tensor, B: Tensor) -> tuple[int, int] | None:
    """Heads' width and number of states of a GPU's kernel that can serve other sizes, padded or split (`ssd.fitted`).

    None where there is none, or where more than half of each factor would be padding.
    """
    width, states = x.shape[2], B.shape[2]
    if not _runs_triton(x) or not 32 <= width <= 128 or states < 32:
        return None
    return 64 if width <= 64 else 128, 64 if states <= 64 else 128


def selective_scan(u: Tensor) -> Implementation:
    """Of Mamba-1's scan."""
    if _runs_triton(u):
        return Implementation.GPU
    return Implementation.CPU if _runs_numba(u) else Implementation.PLAIN


def delta_rule(values: Tensor, keys: Tensor, *, gradients: bool) -> Implementation:
    """Of the gated delta rule, values `[T, H, P]` and keys `[T, G, N]`; gradients: a backward pass may follow.

    flash-linear-attention multiplies float32 in TF32, and tunes its kernels by their times, so two processes may sum in
    different orders.
    """
    half = values.is_cuda and values.dtype in (torch.bfloat16, torch.float16)
    fits = values.shape[0] > 0 and 16 <= keys.shape[2] <= WIDEST_KEY and values.shape[2] >= 16
    if not (half and fits) or is_batch_invariant() or not is_available("fla.ops.gated_delta_rule"):
        return Implementation.PLAIN
    if gradients and not delta_rule_has_gradients(values.device):
        return Implementation.PLAIN
    return Implementation.LIBRARY


def delta_rule_has_gradients(device: torch.device) -> bool:
    """Whether flash-linear-attention's gated delta rule runs backward on a GPU; some Tritons cannot on Hopper."""
    hopper = torch.version.hip is None and torch.cuda.get_device_capability(device)[0] == 9
    return not (hopper and _triton_spoils_gradients())


@cache
def _triton_spoils_gradients() -> bool:
    """Whether this Triton compiles a backward kernel of the gated delta rule wrongly for Hopper. Logs that it does.

    flash-linear-attention raises RuntimeError then (its issue 640).
    """
    version = TorchVersion(importlib.import_module("triton").__version__)
    spoils = version >= "3.4.0" and version < "3.7.1"
    if spoils:
        log.warning(
            "the gated delta rule trains without flash-linear-attention's kernel: Triton %s gives wrong gradients on "
            "Hopper GPUs; Triton 3.7.1, which PyTorch 2.13 brings, does not",
            version,
        )
    return spoils


def causal_conv(x: Tensor, filter_width: int, *, continues: bool) -> Implementation:
    """Of the convolution; continues: sequences continue others of the batch."""
    if _runs_triton(x) and (continues or _fits_conv(filter_width)):
        return Implementation.GPU
    return Implementation.CPU if _runs_numba(x) else Implementation.PLAIN


def norm(x: Tensor, size: int) -> Implementation:
    """Of norms over groups of so many channels."""
    return Implementation.GPU if _runs_triton(x) and size <= WIDEST else Implementation.PLAIN


def product(x: Tensor) -> Implementation:
    """Of products `[R, K]` whose rows do not depend on each other."""
    if _runs_triton(x):
        return Implementation.GPU
    return Implementation.CPU if x.device.type == "cpu" and x.dtype == torch.float32 else Implementation.PLAIN


def loops_are_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether the loops of `product` are faster than the library's product of `[..., K]` and `[N, K]`.

    Only where both add in the same order: MKL takes other kernels for few rows or few outputs, and it does not halve
    an odd number of columns.
    """
    single = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    fits = weight.ndim == 2 and weight.shape[0] >= 16 and weight.shape[1] % 2 == 0 and x.shape[:-1].numel() >= 8
    return single and fits and library_is_slow()


@cache
def library_is_slow() -> bool:
    """Whether the library's products leave half of this CPU unused: on AMD's with AVX-512, MKL's are for AVX2."""
    from llvmlite import binding  # type: ignore[import-untyped]

    is_wide = bool(binding.get_host_cpu_features().get("avx512f", False))
    return torch.backends.mkl.is_available() and is_wide and binding.get_host_cpu_name().startswith("znver")


def activation(x: Tensor) -> Implementation:
    """Of activations that are the same for each value."""
    if _runs_triton(x):
        return Implementation.GPU
    fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return Implementation.CPU if fits else Implementation.PLAIN


def attends_in_order(q: Tensor) -> bool:
    """Whether attention takes keys in the order of their sequence, so that a query depends on nothing else."""
    return is_batch_invariant() and _runs_numba(q)


def quantization(x: Tensor) -> Implementation:
    """Of rounding the rows of `[R, C]` to 8-bit floats."""
    fits = x.is_cuda and x.shape[1] <= WIDEST and is_available("triton")
    return Implementation.GPU if fits else Implementation.PLAIN


def cross_entropy(logits: Tensor) -> Implementation:
    """Of the slope of a cross entropy by its logits `[M, V]`."""
    fits = _runs_triton(logits) and logits.shape[1] <= LARGEST_VOCABULARY
    return Implementation.GPU if fits else Implementation.PLAIN


def mamba1_runs_as_one(projected: Tensor, filter_width: int) -> bool:
    """Whether a GPU has one function for all of Mamba-1's mixer after its input projection."""
    return _runs_triton(projected) and _fits_conv(filter_width)


def mamba2_runs_as_one(projected: Tensor, filter_width: int, width: int, states: int, norm_size: int) -> bool:
    """The same of Mamba-2's, with heads of some width, their states, and the channels that are normed together."""
    fits = _fits_ssd(width, states) and _fits_conv(filter_width) and norm_size <= WIDEST
    return fits and _runs_triton(projected)


def mamba2_gates(projected: Tensor, filter_width: int, width: int, states: int, groups: int) -> bool:
    """Whether Mamba-2's scan convolves and gates as well; only forward, from the input projection's result."""
    if projected.dtype != torch.bfloat16 or not mamba2_gates_on(projected.device, filter_width, width, states, groups):
        return False
    # The unit that copies tiles to shared memory reads rows that begin at multiples of 16 bytes.
    aligned = projected.stride(0) * projected.element_size() % 16 == 0 and projected.data_ptr() % 16 == 0
    return aligned and len(projected) > 0 and projected.stride(1) == 1


def mamba2_gates_on(device: torch.device, filter_width: int, width: int, states: int, groups: int) -> bool:
    """Whether a device has such a scan for a mixer with these sizes; NVIDIA's Hopper has."""
    if device.type != "cuda" or (filter_width, width, states, groups) != (4, 64, 128, 1):
        return False
    hopper = torch.version.hip is None and torch.cuda.get_device_capability(device) == (9, 0)
    return hopper and is_available("ssmrank.kernels.ssd.gpu_gated")


def multiplies_float8(device: torch.device) -> bool:
    """Whether a device has products of 8-bit floats."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= SMALLEST_FLOAT8_CAPABILITY


@cache
def is_available(package: str) -> bool:
    """Whether an optional package can be imported: mamba_ssm, flash_attn, triton; or a module that needs one."""
    try:
        importlib.import_module(package)
    except Exception:  # absent, built for another torch or without CUDA
        return False
    return True


def _runs_triton(x: Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float64 and is_available("triton")


def _runs_numba(x: Tensor) -> bool:
    """The loops take float32; narrower floats are widened for them."""
    return x.device.type == "cpu" and x.dtype != torch.float64


def _fits_ssd(width: int, states: int) -> bool:
    """Heads of this width P and number of states N are among those checked on a GPU.

    Others compile too, but triton 3.6 was seen to place operands of 32 columns outside of shared memory.
    """
    return width in (64, 128) and states in (64, 128)


def _fits_conv(filter_width: int) -> bool:
    return filter_width in (2, 4)
