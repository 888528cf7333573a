from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from kernel_checks import LENGTHS, assert_close, cu_seqlens, scan_inputs, values_and_gradients
from torch import Tensor

from ssmrank.kernels.selective_scan import ScanInputs, packed_selective_scan, reference


def check(lengths: list[int], inputs: dict[str, Tensor | None], tolerance: float = 2e-6, final: bool = True) -> None:
    starts = cu_seqlens(lengths)

    def kernel(initial_states: Tensor | None, **tensors: Any) -> Any:
        options: Any = {"initial_states": initial_states, "return_final_states": final}
        return packed_selective_scan(ScanInputs(**tensors), starts, **options)

    def plain(initial_states: Tensor | None, **tensors: Any) -> Any:
        outputs = reference.selective_scan(ScanInputs(**tensors), starts, initial_states)
        return outputs if final else outputs[0]

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, tolerance)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 65])
def test_one_sequence_of_each_length(length: int) -> None:
    check([length], scan_inputs([length], 16, 4), final=False)


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize(("channels", "states"), [(80, 16), (37, 5)])
def test_mixed_lengths_values_and_all_gradients(channels: int, states: int, initial: bool) -> None:
    check(LENGTHS, scan_inputs(LENGTHS, channels, states, initial=initial))


@pytest.mark.parametrize("absent", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")])
def test_optional_inputs(absent: tuple[str, ...]) -> None:
    inputs = scan_inputs([5, 40], 16, 16)
    check([5, 40], inputs | dict.fromkeys(absent))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing_but_the_work_of_each(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(LENGTHS, scan_inputs(LENGTHS, 100, 4, initial=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("scale", "shift"), [(30.0, 0.0), (1.0, -12.0), (1.0, 20.0)])
def test_steps_from_vanishing_to_huge(scale: float, shift: float) -> None:
    """Some states forget everything at once (their decay underflows), others never forget."""
    inputs = scan_inputs([65, 130], 32, 16)
    assert inputs["delta"] is not None
    inputs["delta"] = inputs["delta"] * scale + shift
    check([65, 130], inputs, 2e-5)


def test_nothing_decays_below_the_smallest_number() -> None:
    inputs = scan_inputs([70], 16, 16)
    inputs["A"] = -torch.full((16, 16), 1e4, dtype=torch.float64)
    check([70], inputs, 2e-5)


def test_gradcheck_of_the_double_precision_path() -> None:
    lengths = [3, 0, 2]
    names, values = zip(*scan_inputs(lengths, 3, 2, initial=True).items(), strict=True)

    def kernel(*tensors: Tensor) -> Any:
        return scan(dict(zip(names, tensors, strict=True)), lengths)

    assert torch.autograd.gradcheck(kernel, [value.requires_grad_() for value in values])


def test_a_state_carried_over_continues_the_sequence() -> None:
    inputs = {k: None if v is None else v.float() for k, v in scan_inputs([100, 57], 48, 16).items()}
    whole, whole_states = scan(inputs, [100, 57])
    first, states = scan({k: part(k, v, [(0, 41), (100, 100)]) for k, v in inputs.items()}, [41, 0])
    rest = {k: part(k, v, [(41, 100), (100, 157)]) for k, v in inputs.items()}
    second, final = scan(rest | {"initial_states": states}, [59, 57])
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final, whole_states, rtol=1e-5, atol=1e-5)


def scan(inputs: dict[str, Tensor | None], lengths: list[int]) -> tuple[Tensor, Tensor]:
    tensors: Any = dict(inputs)
    initial = tensors.pop("initial_states", None)
    return packed_selective_scan(
        ScanInputs(**tensors), cu_seqlens(lengths), initial_states=initial, return_final_states=True
    )


def part(name: str, value: Tensor | None, spans: list[tuple[int, int]]) -> Tensor | None:
    if value is None or name not in ("u", "delta", "B", "C", "z"):
        return value
    return torch.cat([value[start:end] for start, end in spans])


def test_slices_of_a_projection_are_read_in_place_and_not_written_to() -> None:
    inputs: Any = {k: v.float() for k, v in scan_inputs([50, 14], 32, 4).items() if v is not None}
    expected = scan(inputs, [50, 14])[0]
    joint = torch.cat([inputs["u"], inputs["z"], inputs["B"], inputs["C"]], dim=1)
    copy = joint.clone()
    inputs["u"], inputs["z"], inputs["B"], inputs["C"] = joint.split([32, 32, 4, 4], dim=1)
    assert torch.equal(scan(inputs, [50, 14])[0], expected)
    assert torch.equal(joint, copy)


def test_bfloat16_inputs_are_scanned_in_float32() -> None:
    inputs: Any = {k: v.bfloat16() for k, v in scan_inputs([90, 30], 32, 16).items() if v is not None}
    inputs["A"], inputs["D"] = inputs["A"].float(), inputs["D"].float()
    y, states = scan(inputs, [90, 30])
    assert y.dtype == torch.bfloat16
    assert states.dtype == torch.float32
    expected = scan({k: v.float() for k, v in inputs.items()}, [90, 30])
    assert torch.equal(y, expected[0].bfloat16())
    assert torch.equal(states, expected[1])
    leaf = inputs["u"].requires_grad_()
    scan(inputs, [90, 30])[0].sum().backward()
    assert leaf.grad.dtype == torch.bfloat16


def test_a_nan_is_not_hidden() -> None:
    for name in ("u", "delta", "B", "C", "z"):
        inputs: Any = {k: v.float() for k, v in scan_inputs([8, 8], 16, 4).items() if v is not None}
        inputs[name][9] = float("nan")
        y, _ = scan(inputs, [8, 8])
        assert torch.isfinite(y[:9]).all(), name
        assert y[9].isnan().all(), name


def test_equals_transformers_mamba() -> None:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    lengths = [1, 30, 65]
    inputs: Any = {k: v.float() for k, v in scan_inputs(lengths, 32, 16).items() if v is not None}
    y, states = scan(inputs, lengths)
    starts = cu_seqlens(lengths).tolist()
    for index, (start, end) in enumerate(itertools.pairwise(starts)):
        piece = {k: v[None, start:end].transpose(1, 2) for k, v in inputs.items() if v.shape[0] == sum(lengths)}
        theirs, last = mamba_selective_scan(
            piece["u"],
            piece["delta"],
            inputs["A"],
            piece["B"],
            piece["C"],
            D=inputs["D"],
            z=piece["z"],
            delta_bias=inputs["delta_bias"],
            delta_softplus=True,
            return_last_state=True,
        )
        torch.testing.assert_close(y[start:end], theirs[0].T, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(states[index], last[0], rtol=1e-5, atol=1e-5)
