from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from kernel_checks import LENGTHS, Random, assert_close, cu_seqlens, values_and_gradients
from torch import Tensor

from ssmrank.kernels.dispatch import batch_invariant
from ssmrank.kernels.trapezoid import Before, TrapezoidInputs, packed_trapezoid, reference
from ssmrank.kernels.trapezoid.as_ssd import trapezoid as as_ssd

Sizes = tuple[int, int, int, int, int]
"""Heads, their width, groups, states, and how many pairs of states turn."""

SIZES: list[Sizes] = [(4, 16, 1, 16, 8), (4, 32, 2, 32, 8), (3, 5, 3, 6, 2)]


OF_HEADS = ("B_bias", "C_bias", "D")


def trapezoid_inputs(lengths: list[int], sizes: Sizes, *, continues: bool = False) -> dict[str, Tensor | None]:
    heads, width, groups, states, pairs = sizes
    random, tokens, sequences = Random(len(lengths) + width), sum(lengths), len(lengths)
    steps = torch.nn.functional.softplus(random(tokens, heads) - 1)
    return {
        "x": random(tokens, heads, width),
        "steps": steps,
        "log_decays": -steps * torch.exp(random(tokens, heads)),
        "shares": torch.sigmoid(random(tokens, heads)),
        "rates": 3 * torch.tanh(random(tokens, pairs)),
        "B": random(tokens, groups, states) / states**0.5,
        "C": random(tokens, groups, states) / states**0.5,
        "B_bias": random(heads, states) / states**0.5,
        "C_bias": random(heads, states) / states**0.5,
        "D": random(heads),
        "initial_states": random(sequences, heads, width, states) if continues else None,
        "x_before": random(sequences, heads, width) if continues else None,
        "B_before": random(sequences, groups, states) if continues else None,
    }


def run(lengths: list[int], tensors: dict[str, Any], **options: Any) -> Any:
    initial, before, inputs = parts_of(tensors)
    return packed_trapezoid(
        *(TrapezoidInputs(**inputs), cu_seqlens(lengths)), initial_states=initial, before=before, **options
    )


def parts_of(tensors: dict[str, Any]) -> tuple[Tensor | None, Before | None, dict[str, Any]]:
    inputs = dict(tensors)
    initial, x, B = (inputs.pop(name, None) for name in ("initial_states", "x_before", "B_before"))
    return initial, None if x is None else Before(x, B), inputs


def check(
    lengths: list[int], inputs: dict[str, Tensor | None], dtype: torch.dtype = torch.float32, tolerance: float = 2e-5
) -> None:
    def fast(**tensors: Any) -> Any:
        return run(lengths, tensors, return_final_states=True)

    def plain(**tensors: Any) -> Any:
        initial, before, own = parts_of(tensors)
        return reference.trapezoid(TrapezoidInputs(**own), cu_seqlens(lengths), initial, before)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(fast, inputs, dtype), expected, tolerance)


def by_the_paper(inputs: TrapezoidInputs) -> tuple[Tensor, Tensor]:
    """One sequence by Lahoti et al. 2026: equation 5 (the trapezoid) with B and C turned as in equation 9.

    Pairs of states are complex numbers here, and angles are added up from the sequence's start. Returns y, and the
    state at the end.
    """
    x, steps, log_decays, shares, rates, B, C, B_bias, C_bias, D = inputs
    heads, pairs = x.shape[1], rates.shape[1]
    state = torch.zeros(*x.shape[1:], B.shape[2], dtype=x.dtype)
    driven, angle, rows = torch.zeros_like(state), torch.zeros(heads, pairs, dtype=x.dtype), []

    def turned(vectors: Tensor) -> Tensor:
        turning = torch.view_as_complex(vectors[:, : 2 * pairs].unflatten(1, (-1, 2)).contiguous())
        turning = turning * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([torch.view_as_real(turning).flatten(1), vectors[:, 2 * pairs :]], dim=1)

    for t in range(len(x)):
        angle = angle + steps[t][:, None] * rates[t]
        own = [group.repeat_interleave(heads // len(group), 0) for group in (B[t], C[t])]
        b, c = turned(own[0] + B_bias), turned(own[1] + C_bias)
        alpha = torch.exp(log_decays[t])
        beta, gamma = (1 - shares[t]) * steps[t] * alpha, shares[t] * steps[t]
        state, before = alpha[:, None, None] * state, driven
        driven = x[t][:, :, None] * b[:, None, :]
        state = state + beta[:, None, None] * before + gamma[:, None, None] * driven
        rows.append((state * c[:, None, :]).sum(2) + D[:, None] * x[t])
    angle = -angle
    return torch.stack(rows), torch.stack([turned(rows_of) for rows_of in state.unbind(1)], dim=1)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_reference_is_the_papers_recurrence(sizes: Sizes) -> None:
    lengths = [7, 1, 40]
    tensors: Any = {name: tensor for name, tensor in trapezoid_inputs(lengths, sizes).items() if tensor is not None}
    own, finals = reference.trapezoid(TrapezoidInputs(**tensors), cu_seqlens(lengths))
    start = 0
    for sequence, y in enumerate(own.split(lengths)):
        rows = slice(start, start + lengths[sequence])
        start = rows.stop
        own_part = {name: tensor if name in OF_HEADS else tensor[rows] for name, tensor in tensors.items()}
        expected, state = by_the_paper(TrapezoidInputs(**own_part))
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(finals[sequence], state)


@pytest.mark.parametrize("length", [2, 16, 17, 64, 65, 200])
def test_one_sequence_of_each_length(length: int) -> None:
    check([length], trapezoid_inputs([length], SIZES[0]))


@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_mixed_lengths_values_and_all_gradients(sizes: Sizes, continues: bool) -> None:
    check(LENGTHS, trapezoid_inputs(LENGTHS, sizes, continues=continues))


def test_double_precision() -> None:
    check(LENGTHS, trapezoid_inputs(LENGTHS, SIZES[1], continues=True), torch.float64, tolerance=1e-12)


def test_gradcheck() -> None:
    lengths = [4, 0, 2]
    values: Any = trapezoid_inputs(lengths, (2, 2, 1, 4, 1), continues=True).values()

    def fast(*tensors: Tensor) -> Any:
        *inputs, initial, x, B = tensors
        options: dict[str, Any] = {"initial_states": initial, "chunk_size": 3, "return_final_states": True}
        return as_ssd(TrapezoidInputs(*inputs), cu_seqlens(lengths), Before(x, B), **options)

    assert torch.autograd.gradcheck(fast, [value.requires_grad_() for value in values])


@pytest.mark.parametrize("decay", [0.0, 100.0])
def test_states_that_stay_or_fade_at_once(decay: float) -> None:
    inputs = trapezoid_inputs([150], SIZES[0])
    inputs["log_decays"] = torch.full((150, 4), -decay, dtype=torch.float64)
    inputs["log_decays"][::3] = -1e-3
    check([150], inputs, tolerance=1e-4)


@pytest.mark.parametrize("sizes", SIZES)
def test_no_bit_of_an_output_depends_on_later_tokens(sizes: Sizes) -> None:
    """The next token decides what a token's input weighs in later states, here ten thousand times its own step."""
    inputs: Any = {name: t.float() for name, t in trapezoid_inputs([40], sizes).items() if t is not None}
    changed = inputs | {name: inputs[name].clone() for name in ("x", "steps", "B", "rates")}
    for name in ("x", "steps", "B", "rates"):
        changed[name][21:] *= 1e4
    first, second = run([40], inputs), run([40], changed)
    assert torch.equal(first[:21], second[:21])
    assert not torch.equal(first[21:], second[21:])


def test_angles_stay_exact_over_a_long_sequence() -> None:
    """A state that never fades turns thousands of times. Its angle is wrong by no more than single steps are."""
    tokens = 4000
    steps = torch.full((tokens, 1), 2.0)
    inputs = TrapezoidInputs(
        x=torch.zeros(tokens, 1, 16),
        steps=steps,
        log_decays=torch.zeros(tokens, 1),
        shares=torch.ones(tokens, 1),
        rates=torch.full((tokens, 8), 3.0),
        B=torch.zeros(tokens, 1, 16),
        C=torch.zeros(tokens, 1, 16),
        B_bias=torch.ones(1, 16),
        C_bias=torch.ones(1, 16),
        D=torch.zeros(1),
    )
    inputs.x[0] = 1.0
    y = packed_trapezoid(inputs, torch.tensor([0, tokens]))
    expected = 32 * torch.cos(6.0 * torch.arange(tokens, dtype=torch.float64))
    assert (y[:, 0, 0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("invariant", [False, True])
def test_a_state_and_the_token_before_continue_a_sequence(sizes: Sizes, invariant: bool) -> None:
    lengths = [50, 9]
    whole: Any = {n: t.float() for n, t in trapezoid_inputs(lengths, sizes).items() if t is not None}
    expected, final = run(lengths, whole, return_final_states=True)
    own = torch.arange(59)
    first, rest = own[:30], torch.cat([own[30:50], own[50:]])

    def rows(tokens: Tensor) -> dict[str, Any]:
        return {n: t if n in OF_HEADS else t[tokens] for n, t in whole.items()}

    y, state = run([30], rows(first), return_final_states=True)
    before = {"x_before": whole["x"][[29, 29]] * torch.tensor([1.0, 0.0])[:, None, None]}
    before["B_before"] = whole["B"][[29, 29]]
    continued = rows(rest) | before | {"initial_states": state}
    options: dict[str, Any] = {"initial_index": torch.tensor([0, -1]), "longest": 20}
    out = torch.empty_like(whole["x"][:29])
    with batch_invariant() if invariant else nullcontext():
        assert run([20, 9], continued, out=out, **options) is out
        _, ends = run([20, 9], continued, return_final_states=True, **options)
    torch.testing.assert_close(torch.cat([y, out]), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ends, final, rtol=1e-4, atol=1e-4)


def test_bits_of_a_sequence_do_not_depend_on_others_where_that_is_asked_for() -> None:
    lengths = [9, 70, 3]
    inputs: Any = {n: t.float() for n, t in trapezoid_inputs(lengths, SIZES[0]).items() if t is not None}
    of_tokens = {n: t.split(lengths)[1] for n, t in inputs.items() if n not in OF_HEADS}
    with batch_invariant():
        together = run(lengths, inputs).split(lengths)
        alone = run([70], inputs | of_tokens)
    assert torch.equal(together[1], alone)
