"""Products on a GPU, in Triton, whose tiles and order of sums do not depend on the number of rows.

cuBLAS takes other tiles for other numbers of rows, and divides long sums among programs where rows are few. Here the
tiles are fixed, and each program adds up the whole of a tile's sums, from the first column on. A program takes one tile
after another, so that the next tile's loads overlap with the last one's stores.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ssmrank.kernels.gpu.rows import dense
from ssmrank.kernels.ssd.gpu_tiles import may_be_copied, precision_of

HALF: dict[str, int] = {"BM": 128, "BN": 256, "BK": 64, "num_warps": 8, "num_stages": 3}
SINGLE: dict[str, int] = {"BM": 64, "BN": 64, "BK": 32, "num_warps": 4, "num_stages": 2}
"""Rows and outputs of a tile and columns of a step, in half precision and in float32."""

GROUP = 8
"""Rows of tiles that are computed side by side, so that they find the weight in the cache."""


@triton.jit(do_not_specialize=["rows", "programs"])
def _product_kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, y, rows, programs, x_stride, weight_stride, outputs: tl.constexpr, K: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
    COPIED: tl.constexpr,
):  # fmt: skip
    """COPIED: x and weight are tensor descriptors; what lies outside of the tensors is read as 0."""
    across: tl.constexpr = (outputs + BN - 1) // BN
    down = tl.cdiv(rows, BM)
    m, n, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    for tile in range(tl.program_id(0), down * across, programs):
        group = tile // (GROUP * across)
        high = tl.minimum(down - group * GROUP, GROUP)
        inside = tile - group * GROUP * across
        row, column = (group * GROUP + inside % high) * BM, (inside // high) * BN
        total = tl.zeros([BM, BN], tl.float32)
        for first in range(0, K, BK):
            if COPIED:
                a, b = x.load([row, first]), weight.load([column, first])
            else:
                known = first + k < K
                a_rows, b_rows = (row + m).to(tl.int64), (column + n).to(tl.int64)
                a = tl.load(
                    x + a_rows[:, None] * x_stride + (first + k)[None, :],
                    mask=(a_rows < rows)[:, None] & known[None, :], other=0.0,
                )  # fmt: skip
                b = tl.load(
                    weight + b_rows[:, None] * weight_stride + (first + k)[None, :],
                    mask=(b_rows < outputs)[:, None] & known[None, :], other=0.0,
                )  # fmt: skip
            total = tl.dot(a, tl.trans(b), total, input_precision=PRECISION)
        if bias is not None:
            total += tl.load(bias + column + n, mask=column + n < outputs, other=0.0).to(tl.float32)[None, :]
        place = y + (row + m).to(tl.int64)[:, None] * outputs + (column + n)[None, :]
        tl.store(place, total.to(y.dtype.element_ty), mask=(row + m < rows)[:, None] & (column + n < outputs)[None, :])


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias `[R, N]` of x `[R, K]` and weight `[N, K]` in one dtype, bias `[N]`; not differentiable."""
    x, weight = dense(x), dense(weight)
    bias = None if bias is None else bias.contiguous()
    (rows, depth), outputs = x.shape, len(weight)
    y = x.new_empty(rows, outputs)
    options = SINGLE if x.dtype == torch.float32 else HALF
    copied = may_be_copied(x, weight)
    tiles = triton.cdiv(rows, options["BM"]) * triton.cdiv(outputs, options["BN"])
    programs = min(tiles, _processors(x.device))
    _product_kernel[(programs,)](
        *((_described(x, options["BM"], options["BK"]), _described(weight, options["BN"], options["BK"]))
          if copied else (x, weight)),
        bias, y, rows, programs, x.stride(0), weight.stride(0), outputs, depth,
        GROUP=GROUP, PRECISION=precision_of(x), COPIED=copied, **options,
    )  # fmt: skip
    return y


def _described(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor(tensor, list(tensor.shape), [tensor.stride(0), 1], [rows, columns])


@cache
def _processors(device: torch.device) -> int:
    """How many programs run at once."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3
