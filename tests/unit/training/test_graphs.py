from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_training import GROUPS, sequences, settings

from ssmrank.models.packing import pack
from ssmrank.models.reranker import new_reranker
from ssmrank.training.gradients import Accumulator
from ssmrank.training.graphs import fill_up, round_up
from ssmrank.training.loop import _gradients
from ssmrank.training.loss import LOSSES
from ssmrank.training.parallel import Workers
from tiny_models import DELTA_NETS, HYBRIDS, SHAPES, kind_of

NARROW = {shape for shape in HYBRIDS if not shape.startswith("jamba")} - {"bamba-wide"}
UNALIGNED = {"llama-3.2", "mamba2", "mamba3", "mamba3-normed", *DELTA_NETS, *NARROW}
"""Shapes whose rows or heads are no multiple of 16 bytes, or whose heads and states are too few for Triton's scan of
Mamba-2, or whose recurrence has no kernel. Plain PyTorch computes them, and it cannot be captured."""


def test_shapes_are_few_and_waste_little():
    shapes = {round_up(tokens) for tokens in range(1, 32769)}
    assert len(shapes) < 16 * 15
    for tokens in range(64, 32769, 7):
        assert tokens <= round_up(tokens) < 1.0625 * tokens + 1


@pytest.mark.parametrize("seed", range(20))
def test_filling_sequences_make_up_the_shape(seed):
    generator = np.random.default_rng(seed)
    longest, group_size = int(generator.integers(16, 512)), int(generator.integers(2, 17))
    groups = int(generator.integers(1, 17))
    present = int(generator.integers(1, groups + 1))
    lengths = generator.integers(1, longest + 1, present * group_size).tolist()
    shape, fillers = fill_up(lengths, group_size, groups, longest)
    assert sum(lengths) + sum(fillers) == shape.tokens
    assert len(lengths) + len(fillers) == groups * group_size + shape.filling
    assert min(fillers) >= 1 and max(fillers) <= longest
    least = sum(lengths) + (groups - present) * group_size + shape.filling
    assert shape.tokens <= round_up(least) + round_up(least) // 15 + 1


@pytest.mark.parametrize("sequences", [16, 32, 64])
def test_powers_of_two_are_filled_up_by_little(sequences):
    shape, fillers = fill_up([512] * sequences, 16, sequences // 16, 512)
    assert sum(fillers) <= 64 and shape.tokens == 512 * sequences + sum(fillers)


def test_sequences_that_fill_up_do_not_change_the_gradients(tiny_model):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model("mamba2"), "D", 32)
    data = sequences(reranker, GROUPS)
    group = data[0]
    accumulator = Accumulator(reranker, LOSSES["cross_entropy"], "fp32", torch.device("cpu"), 1000, Workers())
    expected = accumulator([group], 1)
    plain = {name: parameter.grad for name, parameter in reranker.named_parameters()}
    reranker.zero_grad(set_to_none=True)
    accumulator.use_graphs(len(group), 2, 32)
    _, fillers = fill_up([len(sequence) for sequence in group], len(group), 2, 32)
    packed = pack([*group, *(np.zeros(length, np.int32) for length in fillers)])
    loss = accumulator._run(packed, torch.tensor([1.0, 0.0]), None)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for name, parameter in reranker.named_parameters():
        assert (parameter.grad - plain[name]).abs().max() <= 1e-6 + 1e-5 * plain[name].abs().max(), name


@pytest.mark.parametrize("shape", ["bert", "mamba2", *DELTA_NETS])
def test_a_training_knows_whether_passes_can_be_captured(tiny_model, shape):
    """So that no capture fails, with a warning, where a pass asks the GPU where sequences start."""
    reranker = new_reranker(tiny_model(shape), kind_of(shape), 32)
    for precision, device, may in (("bf16", "cuda", True), ("fp32", "cuda", False), ("bf16", "cpu", False)):
        gradients = _gradients(reranker, settings(), precision, torch.device(device), Workers())
        assert (gradients.graphs is not None) == (may and shape not in DELTA_NETS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_replayed_passes_add_the_gradients_of_passes_without_graphs(tiny_model, shape):
    torch.manual_seed(0)
    device = torch.device("cuda")
    reranker = new_reranker(tiny_model(shape), kind_of(shape), 32).to(device).eval()  # no dropout
    data = sequences(reranker, GROUPS)
    groups = [data[index] for index in range(len(GROUPS))]

    def gradients(accumulator):
        loss = accumulator(groups, len(groups))
        found = {n: p.grad.clone() for n, p in reranker.named_parameters() if p.grad is not None}
        reranker.zero_grad(set_to_none=accumulator.drops_gradients)
        return loss.item(), found

    plain = Accumulator(reranker, LOSSES["cross_entropy"], "bf16", device, 100, Workers())
    expected_loss, expected = gradients(plain)
    graphed = Accumulator(reranker, LOSSES["cross_entropy"], "bf16", device, 100, Workers())
    graphed.use_graphs(len(groups[0]), len(groups), 32)
    for _ in range(4):  # as it is, captured, replayed
        loss, found = gradients(graphed)
        assert loss == pytest.approx(expected_loss, abs=2e-2)
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 0.05 * gradient.norm() + 1e-4, name
    assert graphed.graphs.active == (shape not in UNALIGNED)
    assert not graphed.graphs.active or graphed.graphs._passes._graphs
