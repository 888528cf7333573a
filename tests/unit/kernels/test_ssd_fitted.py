"""Sizes of heads and states that are padded and split, compared with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import LENGTHS, assert_close, cu_seqlens, ssd_inputs, values_and_gradients
from torch import Tensor

from ssmrank.kernels.ssd import SSDInputs, fitted, packed_ssd, reference


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize(
    ("width", "states", "sizes"),
    [(32, 64, (64, 64)), (16, 48, (16, 64)), (16, 64, (16, 32)), (16, 80, (32, 32)), (64, 128, (64, 128))],
)
def test_values_and_gradients(width: int, states: int, sizes: tuple[int, int], initial: bool) -> None:
    starts = cu_seqlens(LENGTHS)

    def kernel(initial_states: Tensor | None, **tensors: Any) -> Any:
        return fitted.ssd(
            *(packed_ssd, SSDInputs(**tensors), starts, sizes),
            initial_states=initial_states,
            return_final_states=True,
            chunk_size=64,
        )

    def plain(initial_states: Tensor | None, **tensors: Any) -> Any:
        return reference.ssd(SSDInputs(**tensors), starts, initial_states)

    inputs = ssd_inputs(LENGTHS, 4, width, states, 2, initial=initial)
    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 2e-5)


def test_sequences_that_begin_with_chosen_states() -> None:
    lengths = [5, 3, 9]
    inputs = ssd_inputs(lengths, 4, 32, 80, initial=True)
    initial, index = inputs.pop("initial_states"), torch.tensor([2, 0, -1])
    tensors, starts = SSDInputs(**inputs), cu_seqlens(lengths)
    options: dict[str, Any] = {"initial_states": initial, "initial_index": index, "chunk_size": 64, "longest": 9}
    expected, final = packed_ssd(tensors, starts, return_final_states=True, **options)
    out = torch.empty_like(expected)
    found = fitted.ssd(packed_ssd, tensors, starts, (64, 32), out=out, return_final_states=True, **options)
    assert found[0] is out
    torch.testing.assert_close(found, (expected, final), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("width", "states"), [(32, 128), (64, 256), (128, 256), (80, 128)])
def test_sizes_of_published_hybrids_on_a_gpu(width: int, states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, served, own = [130, 1, 300, 64], [], fitted.ssd
    monkeypatch.setattr(fitted, "ssd", lambda *values, **options: served.append(values) or own(*values, **options))
    starts = cu_seqlens(lengths).cuda()

    def kernel(initial_states: Tensor, **tensors: Any) -> Any:
        moved = SSDInputs(**{name: tensor.cuda() for name, tensor in tensors.items()})
        initial = initial_states.cuda()
        y, final = packed_ssd(moved, starts, initial_states=initial, return_final_states=True, chunk_size=64)
        return y.cpu(), final.cpu()

    def plain(initial_states: Tensor, **tensors: Any) -> Any:
        return reference.ssd(SSDInputs(**tensors), starts.cpu(), initial_states)

    inputs = ssd_inputs(lengths, 4, width, states, initial=True)
    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 3e-5)
    assert len(served) == 1
