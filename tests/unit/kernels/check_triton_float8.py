"""Compares rows rounded by Triton, alone and by the norms, with float64 on the device named on the command line.

On a GPU also the product of rounded rows.
"""

from __future__ import annotations

import sys

import torch
from kernel_checks import Random
from torch import Tensor

from ssmrank.kernels.float8 import LARGEST, Rows, product, quantized_reference
from ssmrank.kernels.float8 import gpu as triton_float8
from ssmrank.kernels.norms import gpu as triton_norms
from ssmrank.kernels.norms import norm_reference

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)

EPS = 1e-5


def near(found: Rows, exact: Tensor) -> None:
    """Each value is within its rounding: half of an eighth of it, or half of the smallest step of its row.

    The interpreter truncates the smallest, and of others loses a carry into the exponent, which halves them.
    """
    assert found.values.dtype == torch.float8_e4m3fn and found.scales.dtype == torch.float32
    assert found.scales.shape == (len(exact), 1)
    largest = exact.abs().amax(1, keepdim=True)
    part, of_smallest = (1 / 16, 1 / 2) if found.values.is_cuda else (1 / 2, 1)
    step = torch.maximum(exact.abs() * part, largest / LARGEST * 2**-9 * of_smallest)
    wide = found.values.double() * found.scales.double()
    assert ((wide.cpu() - exact).abs() <= step * (1 + 1e-4) + 1e-30).all()
    kept = largest > 0
    torch.testing.assert_close(found.scales.cpu().double()[kept], largest[kept] / LARGEST, rtol=1e-5, atol=0)


def check(device: str, rows: int, channels: int) -> None:
    random = Random(channels)
    # Rows of very different magnitudes, and one of zeros.
    x = random(rows, channels) * torch.logspace(-6, 6, rows, dtype=torch.float64)[:, None]
    x[rows // 2] = 0
    single = x.float()
    near(triton_float8.quantized(single.to(device)), single.double())
    joint = random(rows, 2 * channels).bfloat16()  # every second half of a row, as of a projection
    near(triton_float8.quantized(joint.to(device)[:, channels:]), joint[:, channels:].double())
    if device == "cpu":
        return  # the interpreter makes numbers of what is none
    for place, odd in enumerate((float("nan"), float("inf"), float("-inf"))):
        single[place, channels // 2] = odd
    found = triton_float8.quantized(single.to(device)).wide().isnan().any(1).cpu()
    assert found.tolist() == [True] * 3 + [False] * (rows - 3)


def check_norms(device: str, rows: int, channels: int) -> None:
    random = Random(channels)
    stream, joint = random(rows, channels).float(), random(rows, 2 * channels).bfloat16()
    weight, update = random(channels).float(), joint[:, channels:]
    moved = stream.to(device), joint.to(device)[:, channels:], weight.to(device)
    normed, total = triton_norms.add_rms_norm_float8(*moved, EPS)
    summed = stream + update
    assert torch.equal(total.cpu(), summed)
    near(normed, norm_reference(summed.double(), None, weight.double(), EPS, channels))
    normed, total = triton_norms.add_rms_norm_float8(moved[0], None, moved[2], EPS)
    assert torch.equal(total.cpu(), stream)
    near(normed, norm_reference(stream.double(), None, weight.double(), EPS, channels))
    x, z = joint.to(device).chunk(2, dim=1)
    normed = triton_norms.gated_rms_norm_float8(x, z, weight.to(device), EPS)
    near(normed, norm_reference(*joint.double().chunk(2, dim=1), weight.double(), EPS, channels))


def check_product(rows: int, inputs: int, outputs: int) -> None:
    random = Random(inputs)
    x, weight = quantized_reference(random(rows, inputs)), quantized_reference(random(outputs, inputs))
    bias = random(outputs).bfloat16()
    exact = (x.values.double() * x.scales) @ (weight.values.double() * weight.scales).T
    x, weight = (Rows(*(part.cuda() for part in factor)) for factor in (x, weight))
    for shift in (None, bias):
        found = product(x, weight, None if shift is None else shift.cuda()).cpu()
        wanted = exact if shift is None else exact + shift.double()
        assert found.dtype == torch.bfloat16
        assert ((found.double() - wanted).norm() / wanted.norm()) < 2**-8
        assert (found.double() - wanted).abs().max() < 0.02 * wanted.abs().max()


def main(device: str) -> None:
    for rows, channels in ((5, 16), (7, 48), (9, 1000)):
        check(device, rows, channels)
        check_norms(device, rows, channels)
    assert len(triton_float8.quantized(torch.empty(0, 16, device=device)).values) == 0
    if device == "cuda":
        check(device, 300, 2048)
        check_norms(device, 300, 2048)
        for rows, inputs, outputs in ((1, 16, 16), (77, 768, 3360), (300, 2048, 1024)):
            check_product(rows, inputs, outputs)


if __name__ == "__main__":
    main(sys.argv[1])
    print("agrees with the reference")
