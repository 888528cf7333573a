from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import LENGTHS, Random, assert_close, cu_seqlens, values_and_gradients
from torch import Tensor
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

from ssmrank.kernels.delta_rule import DeltaInputs, packed_delta_rule, reference
from ssmrank.kernels.delta_rule.chunked import delta_rule_chunked
from ssmrank.kernels.dispatch import batch_invariant


def delta_inputs(
    lengths: list[int], heads: int, width: int, size: int, groups: int, *, initial: bool = False
) -> dict[str, Tensor | None]:
    random, tokens = Random(len(lengths) + width), sum(lengths)
    return {
        "values": random(tokens, heads, width),
        "queries": random(tokens, groups, size) / size**0.5,
        "keys": torch.nn.functional.normalize(random(tokens, groups, size), dim=-1),
        "log_decays": -torch.exp(random(tokens, heads) - 2),
        "rates": torch.sigmoid(random(tokens, heads)),
        "initial_states": random(len(lengths), heads, size, width) if initial else None,
    }


def packed(tensors: dict[str, Any], lengths: list[int], **options: Any) -> Any:
    initial = tensors.pop("initial_states", None)
    return packed_delta_rule(DeltaInputs(**tensors), cu_seqlens(lengths), initial_states=initial, **options)


def check(lengths: list[int], inputs: dict[str, Tensor | None], *, tolerance: float = 2e-5) -> None:
    def kernel(**tensors: Any) -> Any:
        return packed(tensors, lengths, return_final_states=True)

    def plain(initial_states: Tensor | None, **tensors: Any) -> Any:
        return reference.delta_rule(DeltaInputs(**tensors), cu_seqlens(lengths), initial_states)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, tolerance)


def test_the_reference_is_transformers_recurrence() -> None:
    lengths = [7, 1, 12]
    inputs = delta_inputs(lengths, 4, 6, 5, 2, initial=True)
    initial = inputs.pop("initial_states")
    own, final = reference.delta_rule(DeltaInputs(**inputs), cu_seqlens(lengths), initial)  # type: ignore[arg-type]
    parts: Any = {name: tensor.split(lengths) for name, tensor in inputs.items() if tensor is not None}
    for sequence, y in enumerate(own.split(lengths)):
        v, q, k, g, beta = (parts[name][sequence][None] for name in inputs)
        # transformers divides queries, and its first versions take as many heads of keys as of values.
        q, k = (part.repeat_interleave(2, dim=2) for part in (q * q.shape[-1] ** 0.5, k))
        assert initial is not None
        options: dict[str, Any] = {"initial_state": initial[sequence][None], "output_final_state": True}
        theirs, state = torch_recurrent_gated_delta_rule(q, k, v, g, beta, **options)
        assert (theirs[0] - y).abs().max() < 1e-5  # in float32
        assert (state[0] - final[sequence]).abs().max() < 1e-5


@pytest.mark.parametrize("length", [1, 16, 17, 64, 65, 200])
def test_one_sequence_of_each_length(length: int) -> None:
    check([length], delta_inputs([length], 2, 16, 16, 1))


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize(("heads", "width", "size", "groups"), [(4, 32, 16, 2), (3, 5, 7, 1)])
def test_mixed_lengths_values_and_all_gradients(heads: int, width: int, size: int, groups: int, initial: bool) -> None:
    check(LENGTHS, delta_inputs(LENGTHS, heads, width, size, groups, initial=initial))


@pytest.mark.parametrize("decay", [0.0, 100.0])
def test_states_that_stay_or_fade_at_once(decay: float) -> None:
    inputs = delta_inputs([150], 2, 8, 8, 2)
    inputs["log_decays"] = torch.full((150, 2), -decay, dtype=torch.float64)
    inputs["log_decays"][::3] = -1e-3
    check([150], inputs, tolerance=1e-4)


def test_a_value_written_for_a_key_is_read_back_and_overwritten() -> None:
    """With a rate of one, a state holds exactly the last value of each of a set of orthogonal keys."""
    keys = torch.eye(2)[[0, 1, 0]][:, None]
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])[:, None]
    none, all_of_it = torch.zeros(3, 1), torch.ones(3, 1)
    inputs = DeltaInputs(values, torch.eye(2)[[0, 0, 1]][:, None], keys, none, all_of_it)
    y = packed_delta_rule(inputs, torch.tensor([0, 3]))
    assert y[:, 0].tolist() == [[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]


def test_rows_of_states_are_chosen() -> None:
    lengths = [3, 4, 2]
    inputs = delta_inputs(lengths, 2, 4, 4, 2)
    del inputs["initial_states"]
    states = Random(5)(2, 2, 4, 4)
    index = torch.tensor([1, -1, 1])
    tensors: Any = dict(inputs)
    chosen = packed_delta_rule(DeltaInputs(**tensors), cu_seqlens(lengths), initial_states=states, initial_index=index)
    expected = torch.stack([states[1], torch.zeros_like(states[0]), states[1]])
    whole = packed_delta_rule(DeltaInputs(**tensors), cu_seqlens(lengths), initial_states=expected)
    assert torch.equal(chosen, whole)


def test_gradcheck_of_the_chunked_form() -> None:
    lengths = [4, 0, 2]
    values: Any = delta_inputs(lengths, 2, 2, 3, 1, initial=True).values()

    def chunked(*tensors: Tensor) -> Any:
        *inputs, initial = tensors
        return delta_rule_chunked(DeltaInputs(*inputs), cu_seqlens(lengths), initial, chunk_size=3, need_final=True)

    assert torch.autograd.gradcheck(chunked, [value.requires_grad_() for value in values])


def test_bits_of_a_sequence_do_not_depend_on_others_where_that_is_asked_for() -> None:
    lengths = [9, 70, 3]
    inputs: Any = {
        name: tensor.float() for name, tensor in delta_inputs(lengths, 2, 8, 8, 1).items() if tensor is not None
    }
    with batch_invariant():
        together = packed(dict(inputs), lengths).split(lengths)
        alone = packed({name: tensor.split(lengths)[1] for name, tensor in inputs.items()}, [70])
    assert torch.equal(together[1], alone)


def test_a_training_step_follows_an_evaluation_of_the_same_lengths() -> None:
    lengths = [71, 18]
    inputs = {name: tensor for name, tensor in delta_inputs(lengths, 4, 6, 5, 2).items() if tensor is not None}
    with torch.inference_mode():
        evaluated = packed(dict(inputs), lengths)
    trained = packed({name: tensor.requires_grad_() for name, tensor in inputs.items()}, lengths)
    assert torch.equal(trained, evaluated)
    trained.sum().backward()
