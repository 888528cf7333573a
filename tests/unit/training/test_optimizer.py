"""AdamW with moments in fewer bits, against AdamW with moments in float32."""

from __future__ import annotations

import io

import pytest
import torch

from ssmrank.training.optimizer import MOMENTS, Moments, begin, decay_groups, make_adamw, set_learning_rate

STATES = ["float32", "bfloat16", "8bit"]


def problem(width=96):
    """A regression whose gradients have many sizes: the inputs' scales go from 0.01 to 1."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-2, 0, width)
    inputs = torch.randn(512, width, generator=generator) * scales
    targets = inputs @ torch.randn(width, width, generator=generator)
    model = torch.nn.Linear(width, width)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    return model, inputs, targets


def steps(model, optimizer, inputs, targets, first, last, total=150):
    for step in range(first, last):
        set_learning_rate(optimizer, 0.05 * (1 - step / total))
        rows = slice(64 * (step % 8), 64 * (step % 8) + 64)
        (model(inputs[rows]) - targets[rows]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return (model(inputs) - targets).square().mean().item()


def trained(states, last=150):
    model, inputs, targets = problem()
    optimizer = make_adamw(decay_groups(model, 0.01), 0.05, states)
    return steps(model, optimizer, inputs, targets, 0, last), model, optimizer


def test_fewer_bits_learn_what_float32_does():
    exact, model, _ = trained("float32")
    start = problem()[2].square().mean().item()
    assert exact < start / 20
    for states, distance in (("bfloat16", 0.01), ("8bit", 0.2)):
        loss, rounded, optimizer = trained(states)
        assert loss == pytest.approx(exact, rel=0.1), states
        assert (rounded.weight - model.weight).norm() < distance * model.weight.norm(), states
        assert (rounded.weight - model.weight).abs().max() > 0, states
        saved = io.BytesIO()
        torch.save(optimizer.state_dict(), saved)
        bytes_of_a_weight = saved.tell() / sum(parameter.numel() for parameter in rounded.parameters())
        assert bytes_of_a_weight < {"bfloat16": 4.5, "8bit": 2.7}[states]


@pytest.mark.parametrize("states", STATES)
def test_a_resumed_one_takes_the_same_steps(states):
    _, whole, _ = trained(states, 12)
    _, model, optimizer = trained(states, 7)
    saved = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    found = torch.load(saved, weights_only=True)
    again, inputs, targets = problem()
    again.load_state_dict(found["model"])
    resumed = make_adamw(decay_groups(again, 0.01), 0.05, states)
    resumed.load_state_dict(found["optimizer"])
    torch.manual_seed(99)  # rounding must not depend on it
    steps(again, resumed, inputs, targets, 7, 12)
    assert torch.equal(whole.weight, again.weight)
    assert torch.equal(whole.bias, again.bias)


def test_a_second_moment_in_bfloat16_falls_as_it_does_in_float32():
    """A step takes 0.1% of it, less than half of bfloat16's spacing: rounded to the nearest it would stay."""
    found = {}
    for states in ("float32", "bfloat16"):
        weight = torch.nn.Parameter(torch.zeros(4096))
        optimizer = make_adamw([{"params": [weight], "weight_decay": 0.0}], 1e-3, states)
        for step in range(400):
            weight.grad = torch.full_like(weight, 1.0 if step < 50 else 0.0)
            optimizer.step()
        found[states] = optimizer.state[weight]["exp_avg_sq"].float().mean().item()
    peak = 1 - 0.999**50
    assert found["float32"] < 0.75 * peak
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.01)


@pytest.mark.parametrize("states", ["float32", "bfloat16"])
def test_moments_are_carried_over_in_float32_without_a_loss(states):
    _, model, optimizer = trained(states, 9)
    _, _, other = trained(states, 0)
    mine = Moments(optimizer)
    begin(other, 9)
    theirs = Moments(other)
    for group, empty in zip(optimizer.param_groups, other.param_groups, strict=True):
        for parameter, target in zip(group["params"], empty["params"], strict=True):
            assert torch.equal(target, torch.zeros_like(target))  # beginning takes no step
            assert target.grad is None
            for name in MOMENTS:
                values = mine.of(parameter, name)
                assert values.dtype == torch.float32 and values.shape == (parameter.numel(),)
                theirs.of(target, name).copy_(values)
    theirs.put_back()
    again = Moments(other)
    for group, empty in zip(optimizer.param_groups, other.param_groups, strict=True):
        for parameter, target in zip(group["params"], empty["params"], strict=True):
            assert other.state[target]["step"] == optimizer.state[parameter]["step"] == 9
            for name in MOMENTS:
                assert torch.equal(again.of(target, name), mine.of(parameter, name))
    assert mine.of(model.weight, "exp_avg").abs().max() > 0
