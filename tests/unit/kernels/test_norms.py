from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from kernel_checks import Random, assert_close, values_and_gradients
from torch import Tensor

from ssmrank.kernels.norms import add_rms_norm, blocked, gated_rms_norm, reference, rms_norm


def test_rms_norm_of_a_hand_worked_row() -> None:
    x = torch.tensor([[3.0, 4.0]])
    expected = torch.tensor([[3.0, 8.0]]) / (12.5 + 0.5) ** 0.5
    torch.testing.assert_close(rms_norm(x, torch.tensor([1.0, 2.0]), 0.5), expected)


def test_rms_norm_equals_transformers() -> None:
    from transformers.models.mamba2.modeling_mamba2 import Mamba2RMSNorm

    theirs = Mamba2RMSNorm(24, eps=1e-5)
    x = Random(0)(7, 24).float()
    torch.testing.assert_close(rms_norm(x, theirs.weight, 1e-5), theirs(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("group_size", [24, 8])
def test_gated_rms_norm_equals_transformers(group_size: int) -> None:
    from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

    if "group_size" in inspect.signature(MambaRMSNormGated).parameters:
        theirs = MambaRMSNormGated(24, group_size, eps=1e-5)
    elif group_size == 24:
        theirs = MambaRMSNormGated(24, eps=1e-5)
    else:
        pytest.skip("this transformers norms over all groups at once")
    theirs.weight.data = Random(2)(24).float()
    x, z = Random(0)(7, 24).float(), Random(1)(7, 24).float()
    ours = gated_rms_norm(x, z, theirs.weight, 1e-5, group_size)
    torch.testing.assert_close(ours, theirs(x, z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("group_size", [None, 3])
def test_gradients(group_size: int | None) -> None:
    inputs = [Random(seed)(*shape).requires_grad_() for seed, shape in enumerate(((4, 6), (4, 6), (6,)))]
    assert torch.autograd.gradcheck(lambda x, z, w: gated_rms_norm(x, z, w, 1e-5, group_size), inputs)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-5), [inputs[0], inputs[2]])


def test_bfloat16_is_normed_in_float32() -> None:
    x, z, weight = (Random(seed)(*shape).bfloat16() for seed, shape in enumerate(((4, 64), (4, 64), (64,))))
    y = gated_rms_norm(x, z, weight, 1e-5, 64)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, gated_rms_norm(x.float(), z.float(), weight.float(), 1e-5, 64).bfloat16())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("shape", "size"), [((1, 16), 16), ((3, 50, 64), 64), ((129, 96), 32)])
def test_values_and_gradients_in_single_precision(shape: tuple[int, ...], size: int, gated: bool) -> None:
    random = Random(sum(shape))
    inputs = {"x": random(*shape), "z": random(*shape) if gated else None, "weight": random(shape[-1])}

    def kernel(x: Tensor, z: Tensor | None, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, 1e-5) if z is None else gated_rms_norm(x, z, weight, 1e-5, size)

    def plain(**tensors: Any) -> Tensor:
        return reference.norm(**tensors, eps=1e-5, size=size if gated else shape[-1])

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("shape", "size"), [((1, 16), 16), ((3, 5, 64), 64), ((129, 96), 32), ((7, 96), 32)])
def test_bits_are_the_same_with_and_without_gradients(
    shape: tuple[int, ...], size: int, gated: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "BLOCK", 10 * shape[-1])  # of the 129 rows the last nine are a block
    random = Random(sum(shape))
    joint = random(*shape[:-1], 2 * shape[-1]).to(dtype)  # x and z are slices, as a projection leaves them
    x, z = joint.chunk(2, dim=-1)
    weight = random(shape[-1]).to(dtype)

    def computed() -> Tensor:
        return gated_rms_norm(x, z, weight, 1e-5, size) if gated else rms_norm(x, weight, 1e-5)

    with torch.no_grad():
        without = computed()
    assert without.dtype == dtype and torch.equal(without, computed())


def test_slices_of_a_projection_and_inputs_of_all_zeros() -> None:
    joint = Random(0)(20, 64).float()
    x, z = joint.split([32, 32], dim=1)
    weight = torch.ones(32)
    assert torch.equal(gated_rms_norm(x, z, weight, 1e-5), gated_rms_norm(x.clone(), z.clone(), weight, 1e-5))
    assert torch.equal(rms_norm(torch.zeros(2, 16), torch.ones(16), 1e-5), torch.zeros(2, 16))
    assert rms_norm(torch.zeros(0, 16), torch.ones(16), 1e-5).shape == (0, 16)


def test_a_step_of_a_residual_stream() -> None:
    random = Random(0)
    residual, update, weight = random(3, 32).float(), random(3, 32).bfloat16(), random(32).float()
    normed, total = add_rms_norm(residual, update, weight, 1e-5)
    assert total.dtype == normed.dtype == torch.float32
    assert torch.equal(total, residual + update)
    assert torch.equal(normed, rms_norm(total, weight, 1e-5))
    normed, same = add_rms_norm(residual, None, weight, 1e-5, torch.bfloat16)
    assert torch.equal(same, residual)
    assert torch.equal(normed, rms_norm(residual, weight, 1e-5).bfloat16())


def test_the_norm_of_a_stream_is_in_the_dtype_of_the_next_product() -> None:
    stream, weight = torch.ones(2, 16), torch.ones(16)
    assert add_rms_norm(stream, None, weight.bfloat16(), 1e-5)[0].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        normed, total = add_rms_norm(stream, stream, weight, 1e-5)
    assert (normed.dtype, total.dtype) == (torch.bfloat16, torch.float32)
