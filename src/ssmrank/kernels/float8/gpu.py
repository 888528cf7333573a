"""Rows rounded to 8-bit floats on a GPU, in Triton; `store_float8` does so within another kernel.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmrank.kernels.float8.reference import Rows
from ssmrank.kernels.gpu.rows import dense, launch


@triton.jit
def store_float8(values, scales, row, channels, columns, value, largest, factor, mask):  # type: ignore[no-untyped-def]
    """Stores the row value · factor as `float8.quantized` rounds it; `largest` is the largest magnitude of `value`.

    The factor is separate because it may come from another reduction over the row. The two reductions then need not
    wait for each other.
    """
    largest = tl.maximum(largest, 1e-30)
    tl.store(scales + row, largest * factor / 448.0)
    tl.store(values + row * channels + columns, (value * (448.0 / largest)).to(tl.float8e4nv), mask=mask)


@triton.jit
def _quantize(x, values, scales, stride, channels, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < channels
    value = tl.load(x + row * stride + columns, mask=mask, other=0.0).to(tl.float32)
    store_float8(values, scales, row, channels, columns, value, tl.max(tl.abs(value), axis=0), 1.0, mask)


def new_rows(like: Tensor) -> Rows:
    """Allocates room for rounded rows of `[R, C]`."""
    rows, channels = like.shape
    return Rows(like.new_empty(rows, channels, dtype=torch.float8_e4m3fn), like.new_empty(rows, 1, dtype=torch.float32))


def quantized(x: Tensor) -> Rows:
    """See `float8.quantized`; at most WIDEST channels."""
    x = dense(x)
    found = new_rows(x)
    if len(x):
        _quantize[(len(x),)](x, *found, x.stride(0), x.shape[1], **launch(x.shape[1]))
    return found
