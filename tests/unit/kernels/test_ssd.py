from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from kernel_checks import LENGTHS, assert_close, cu_seqlens, ssd_inputs, values_and_gradients
from torch import Tensor

from ssmrank.kernels.ssd import SSDInputs, packed_ssd, reference
from ssmrank.kernels.ssd.chunked import ssd_chunked


def check(
    lengths: list[int],
    inputs: dict[str, Tensor | None],
    *,
    tolerance: float = 2e-5,
    final: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    starts = cu_seqlens(lengths)

    def kernel(**tensors: Any) -> Any:
        return ssd(tensors, lengths, final)

    def plain(initial_states: Tensor | None, **tensors: Any) -> Any:
        outputs = reference.ssd(SSDInputs(**tensors), starts, initial_states)
        return outputs if final else outputs[0]

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, dtype), expected, tolerance)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 65, 200])
def test_one_sequence_of_each_length(length: int) -> None:
    check([length], ssd_inputs([length], 2, 16, 16), final=False)


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize(("heads", "width", "states", "groups"), [(3, 64, 128, 1), (6, 32, 16, 3), (3, 5, 7, 1)])
def test_mixed_lengths_values_and_all_gradients(
    heads: int, width: int, states: int, groups: int, initial: bool
) -> None:
    check(LENGTHS, ssd_inputs(LENGTHS, heads, width, states, groups, initial=initial))


@pytest.mark.parametrize("initial", [False, True])
def test_a_sequence_of_many_chunks(initial: bool) -> None:
    check([300, 3], ssd_inputs([300, 3], 2, 32, 16, initial=initial), final=initial)


@pytest.mark.parametrize("absent", [("D",), ("dt_bias",), ("D", "dt_bias")])
def test_optional_inputs(absent: tuple[str, ...]) -> None:
    check([5, 40], ssd_inputs([5, 40], 2, 16, 16) | dict.fromkeys(absent))


@pytest.mark.parametrize(("scale", "shift"), [(30.0, 0.0), (1.0, -12.0), (1.0, 20.0)])
def test_steps_from_vanishing_to_huge(scale: float, shift: float) -> None:
    """After a decay by e^-10000, the small differences of the running sum still have to be exact."""
    inputs = ssd_inputs([65, 230], 4, 16, 16)
    assert inputs["dt"] is not None
    inputs["dt"] = inputs["dt"] * scale + shift
    inputs["A"] = -torch.tensor([1e-3, 1.0, 16.0, 100.0], dtype=torch.float64)
    inputs["dt"][::2, :] -= shift
    check([65, 230], inputs, tolerance=5e-4)


def test_gradcheck_of_the_chunked_form() -> None:
    lengths = [4, 0, 2]
    values: Any = ssd_inputs(lengths, 2, 1, 2, initial=True).values()

    def chunked(*tensors: Tensor) -> Any:
        *inputs, initial = tensors
        return ssd_chunked(SSDInputs(*inputs), cu_seqlens(lengths), initial, chunk_size=3, need_final=True)

    assert torch.autograd.gradcheck(chunked, [value.requires_grad_() for value in values])


def test_double_precision() -> None:
    check(LENGTHS, ssd_inputs(LENGTHS, 4, 8, 4, 2, initial=True), dtype=torch.float64, tolerance=1e-12)


def ssd(inputs: dict[str, Any], lengths: list[int], final: bool = True) -> Any:
    tensors = dict(inputs)
    initial = tensors.pop("initial_states", None)
    return packed_ssd(
        *(SSDInputs(**tensors), cu_seqlens(lengths)),
        chunk_size=256,
        initial_states=initial,
        return_final_states=final,
    )


def part(name: str, value: Tensor | None, spans: list[tuple[int, int]]) -> Tensor | None:
    if value is None or name not in ("x", "dt", "B", "C"):
        return value
    return torch.cat([value[start:end] for start, end in spans])


def test_a_state_carried_over_continues_the_sequence() -> None:
    inputs = {k: None if v is None else v.float() for k, v in ssd_inputs([150, 57], 3, 16, 32).items()}
    whole, whole_states = ssd(inputs, [150, 57])
    first, states = ssd({k: part(k, v, [(0, 71), (150, 150)]) for k, v in inputs.items()}, [71, 0])
    rest = {k: part(k, v, [(71, 150), (150, 207)]) for k, v in inputs.items()}
    second, final = ssd(rest | {"initial_states": states}, [79, 57])
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final, whole_states, rtol=1e-5, atol=1e-5)


def test_slices_of_a_projection() -> None:
    inputs: Any = {k: v.float() for k, v in ssd_inputs([50, 14], 2, 16, 16).items() if v is not None}
    expected = ssd(inputs, [50, 14])[0]
    joint = torch.cat([inputs["x"].flatten(1), inputs["B"].flatten(1), inputs["C"].flatten(1), inputs["dt"]], dim=1)
    x, b, c, inputs["dt"] = joint.split([32, 16, 16, 2], dim=1)
    inputs["x"], inputs["B"], inputs["C"] = x.unflatten(1, (2, 16)), b.unflatten(1, (1, 16)), c.unflatten(1, (1, 16))
    torch.testing.assert_close(ssd(inputs, [50, 14])[0], expected, rtol=1e-6, atol=1e-6)


def test_bfloat16_inputs_are_mixed_in_float32() -> None:
    inputs: Any = {k: v.bfloat16() for k, v in ssd_inputs([90, 30], 2, 16, 16).items() if v is not None}
    y, states = ssd(inputs, [90, 30])
    assert y.dtype == torch.bfloat16
    assert states.dtype == torch.float32
    expected = ssd({k: v.float() for k, v in inputs.items()}, [90, 30])
    assert torch.equal(y, expected[0].bfloat16())
    assert torch.equal(states, expected[1])


def test_a_nan_is_not_hidden() -> None:
    for name in ("x", "dt", "B", "C"):
        inputs: Any = {k: v.float() for k, v in ssd_inputs([8, 8], 2, 16, 16).items() if v is not None}
        inputs[name][9] = float("nan")
        y, _ = ssd(inputs, [8, 8])
        assert torch.isfinite(y[:8]).all(), name
        assert y[9].isnan().all(), name


def test_equals_transformers_mamba2() -> None:
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    lengths = [1, 30, 65]
    inputs: Any = {k: v.float() for k, v in ssd_inputs(lengths, 4, 16, 16, 2).items() if v is not None}
    y, states = ssd(inputs, lengths)
    starts = cu_seqlens(lengths).tolist()
    for index, (start, end) in enumerate(itertools.pairwise(starts)):
        piece = {k: inputs[k][None, start:end] for k in ("x", "dt", "B", "C")}
        theirs, last = mamba2_chunk_scan(
            piece["x"],
            piece["dt"],
            inputs["A"],
            piece["B"],
            piece["C"],
            chunk_size=32,
            D=inputs["D"],
            dt_bias=inputs["dt_bias"],
            dt_softplus=True,
            return_final_states=True,
        )
        torch.testing.assert_close(y[start:end], theirs[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(states[index], last[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "states"), [(64, 128), (5, 7)])
def test_a_training_step_follows_an_evaluation_of_the_same_lengths(width: int, states: int) -> None:
    lengths = [73, 19]
    inputs = {name: t for name, t in ssd_inputs(lengths, 2, width, states).items() if name != "initial_states"}
    inputs = {name: None if tensor is None else tensor.float() for name, tensor in inputs.items()}
    with torch.inference_mode():
        evaluated = ssd(dict(inputs), lengths, False)
    trained = ssd({name: None if t is None else t.requires_grad_() for name, t in inputs.items()}, lengths, False)
    assert torch.equal(trained, evaluated)
    trained.sum().backward()
