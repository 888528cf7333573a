"""GPU kernels of norms, compared with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, INTERPRETED, Random, assert_close, gpu_kernels, on_gpu, values_and_gradients
from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.norms import gpu, reference

pytestmark = gpu_kernels

EPS = 0.1
"""Large, so that the gradient of a single channel's norm is not a difference of nearly equal terms."""
BF16 = torch.bfloat16
DTYPES = [torch.float32, BF16]
WIDEST = dispatch.WIDEST


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each program of a backward pass process several rows."""
    monkeypatch.setattr(gpu, "PROGRAMS", 7)


def add_reference(residual: Tensor, update: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = residual if update is None else residual + update
    return reference.norm(total, None, weight, EPS, len(weight)), total


def leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(DEVICE, dtype).requires_grad_()


def wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double().requires_grad_()


def near(got: Tensor | None, expected: Tensor | None, dtype: torch.dtype) -> None:
    """Asserts that results are as close as rounding to `dtype` allows (the interpreter truncates): float32 inside."""
    assert got is not None and expected is not None
    assert got.dtype == dtype
    scale = float(expected.detach().abs().max())
    relative = 0.0 if dtype != BF16 else 2**-8 if not INTERPRETED else 2**-7
    torch.testing.assert_close(got.detach().cpu().double(), expected.detach(), rtol=relative, atol=3e-6 * scale)


def layer_reference(residual: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    total = residual if update is None else residual + update
    return torch.nn.functional.layer_norm(total, weight.shape, weight, bias, EPS)


def check_add(rows: int, channels: int, update: bool) -> None:
    random = Random(channels)
    shapes = {"residual": (rows, channels), "update": (rows, channels), "weight": (channels,)}
    inputs = {name: random(*shape) for name, shape in shapes.items() if update or name != "update"}

    def kernel(which: slice, residual: Tensor, weight: Tensor, update: Tensor | None = None) -> Any:
        moved = residual.to(DEVICE), None if update is None else update.to(DEVICE), weight.to(DEVICE)
        return tuple(y.cpu() for y in gpu.add_rms_norm(*moved, EPS, torch.float32)[which])

    def plain(which: slice, residual: Tensor, weight: Tensor, update: Tensor | None = None) -> Any:
        return add_reference(residual, update, weight)[which]

    for which in (slice(0, 2), slice(0, 1)):  # the stream continues, or ends in its norm
        expected = values_and_gradients(lambda which=which, **x: plain(which, **x), inputs, torch.float64)
        got = values_and_gradients(lambda which=which, **x: kernel(which, **x), inputs, torch.float32)
        assert_close(got, expected, 2e-6)


def check_layer(rows: int, channels: int, update: bool) -> None:
    random = Random(channels)
    wide_shape, shape = (rows, channels), (channels,)
    shapes = {"residual": wide_shape, "update": wide_shape, "weight": shape, "bias": shape}
    inputs = {name: random(*shape) for name, shape in shapes.items() if update or name != "update"}
    inputs["residual"] = inputs["residual"] + 5

    def kernel(residual: Tensor, weight: Tensor, bias: Tensor, update: Tensor | None = None) -> Tensor:
        moved = residual.to(DEVICE), None if update is None else update.to(DEVICE), weight.to(DEVICE), bias.to(DEVICE)
        return gpu.add_layer_norm(*moved, EPS, torch.float32).cpu()

    def plain(residual: Tensor, weight: Tensor, bias: Tensor, update: Tensor | None = None) -> Tensor:
        return layer_reference(residual, update, weight, bias)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 4e-6)
    with torch.no_grad():
        single = {name: tensor.float() for name, tensor in inputs.items()}
        near(kernel(**single), plain(**inputs), torch.float32)


def check_gated(rows: int, channels: int, size: int) -> None:
    random = Random(channels + size)
    inputs: dict[str, Tensor | None] = {
        "x": random(rows, channels),
        "z": 4 * random(rows, channels),
        "weight": random(channels),
    }

    def kernel(**tensors: Any) -> Tensor:
        moved = {name: tensor.to(DEVICE) for name, tensor in tensors.items()}
        return gpu.gated_rms_norm(**moved, eps=EPS, size=size).cpu()

    def plain(**tensors: Any) -> Tensor:
        return reference.norm(**tensors, eps=EPS, size=size)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 2e-6)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(("rows", "channels", "update"), [(1, 1, True), (3, 129, True), (40, 100, True), (8, 5, False)])
def test_rms_norm_of_a_stream(rows: int, channels: int, update: bool) -> None:
    check_add(rows, channels, update)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(("rows", "channels", "update"), [(1, 1, True), (3, 129, True), (40, 100, True), (8, 5, False)])
def test_layer_norm_of_a_stream(rows: int, channels: int, update: bool) -> None:
    check_layer(rows, channels + 7, update)  # normalised, few channels have little left


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(("rows", "channels", "size"), [(1, 40, 40), (3, 129, 43), (9, 64, 8), (9, 6, 1)])
def test_gated_rms_norm(rows: int, channels: int, size: int) -> None:
    check_gated(rows, channels, size)


def test_a_program_for_each_row() -> None:
    check_add(2, 33, update=True)
    check_gated(2, 66, 33)


@pytest.mark.parametrize(("rows", "channels"), [on_gpu(5000, 768), on_gpu(300, WIDEST)])
def test_rows_of_models(rows: int, channels: int) -> None:
    check_add(rows, channels, update=True)
    check_layer(rows, channels, update=True)


@pytest.mark.parametrize(
    ("rows", "channels", "size"), [on_gpu(5000, 1536, 1536), on_gpu(300, 5120, 640), on_gpu(30, WIDEST, WIDEST)]
)
def test_gated_rows_of_models(rows: int, channels: int, size: int) -> None:
    check_gated(rows, channels, size)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("stream", DTYPES)
@pytest.mark.parametrize("weights", DTYPES)
def test_add_rms_norm_of_mixed_types(stream: torch.dtype, weights: torch.dtype) -> None:
    """A bfloat16 update to a stream, both strided; the norm in bfloat16."""
    rows, channels = 9, 40
    random = Random(0)
    residual = leaf(random(rows, channels), stream)
    joint = leaf(random(rows, 2 * channels), BF16)
    weight = leaf(random(channels), weights)
    exact = wide(residual), wide(joint), wide(weight)
    normed, total = gpu.add_rms_norm(residual, joint[:, channels:], weight, EPS, BF16)
    # A bfloat16 stream is normed as it is rounded.
    summed = exact[0] + exact[1][:, channels:]
    summed = summed + (total.detach().cpu().double() - summed).detach()
    expected, _ = add_reference(summed, None, exact[2])
    near(total, exact[0] + exact[1][:, channels:], stream)
    near(normed, expected, BF16)
    grads = random(rows, channels).to(BF16), random(rows, channels).to(stream)
    torch.autograd.backward([normed, total], [grad.to(DEVICE) for grad in grads])
    torch.autograd.backward([expected, summed], [grad.double() for grad in grads])
    near(residual.grad, exact[0].grad, stream)
    near(joint.grad, exact[1].grad, BF16)
    near(weight.grad, exact[2].grad, weights)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("stream", DTYPES)
@pytest.mark.parametrize("weights", DTYPES)
def test_layer_norm_of_mixed_types(stream: torch.dtype, weights: torch.dtype) -> None:
    """A bfloat16 update to a stream, both strided; the norm in bfloat16."""
    rows, channels = 9, 40
    random = Random(0)
    residual = leaf(random(rows, channels), stream)
    joint = leaf(random(rows, 2 * channels), BF16)
    weight, bias = (leaf(random(channels), weights) for _ in range(2))
    exact = [wide(tensor) for tensor in (residual, joint, weight, bias)]
    normed = gpu.add_layer_norm(residual, joint[:, channels:], weight, bias, EPS, BF16)
    summed = exact[0] + exact[1][:, channels:]
    # A bfloat16 stream is normed as it is rounded.
    total = (residual + joint[:, channels:]).detach().cpu()
    if stream == BF16 and INTERPRETED:
        total = gpu.add_rms_norm(residual, joint[:, channels:], weight, EPS, BF16)[1].detach()
    summed = summed + (total.double() - summed).detach()
    expected = layer_reference(summed, None, exact[2], exact[3])
    near(normed, expected, BF16)
    grad = random(rows, channels).to(BF16)
    normed.backward(grad.to(DEVICE))
    expected.backward(grad.double())
    for got, want, dtype in zip((residual, joint, weight, bias), exact, (stream, BF16, weights, weights), strict=True):
        near(got.grad, want.grad, dtype)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("weights", DTYPES)
def test_gated_rms_norm_of_mixed_types(weights: torch.dtype) -> None:
    """Bfloat16 slices of one projection, and a gate in float32."""
    rows, channels, size = 9, 48, 24
    random = Random(1)
    joint = leaf(random(rows, 2 * channels), BF16)
    weight = leaf(random(channels), weights)
    grad = random(rows, channels).to(BF16)
    for gate_dtype in (BF16, torch.float32):
        joint.grad = weight.grad = None
        exact = wide(joint), wide(weight)
        x, z = joint.chunk(2, dim=1)
        y = gpu.gated_rms_norm(x, z.to(gate_dtype), weight, EPS, size)
        expected = reference.norm(*exact[0].chunk(2, dim=1), exact[1], EPS, size)
        near(y, expected, BF16)
        y.backward(grad.to(DEVICE))
        expected.backward(grad.double())
        near(joint.grad, exact[0].grad, BF16)
        near(weight.grad, exact[1].grad, weights)


@pytest.mark.usefixtures("few_programs")
def test_edges_of_rms_norms() -> None:
    """No rows, more than two dimensions, only the sum used, and gradients that are broadcast."""
    ones = torch.ones(16, device=DEVICE)
    for shape in ((0, 16), (2, 3, 16)):
        residual, update = (Random(seed)(*shape).float().to(DEVICE).requires_grad_() for seed in (0, 1))
        weight = ones.clone().requires_grad_()
        normed, total = gpu.add_rms_norm(residual, update, weight, EPS, torch.float32)
        gated = gpu.gated_rms_norm(residual, update, weight, EPS, 8)
        assert normed.shape == total.shape == gated.shape == shape
        (normed.sum() + total.sum() + gated.sum()).backward()
        assert residual.grad is not None and residual.grad.shape == shape and residual.grad.isfinite().all()
        assert weight.grad is not None and weight.grad.isfinite().all()
        exact = wide(residual)
        (add_reference(exact, wide(update), ones.cpu().double())[0].sum() + exact.sum()).backward()
        residual.grad = update.grad = None
        normed, total = gpu.add_rms_norm(residual, update, ones, EPS, torch.float32)
        (normed.sum() + total.sum()).backward()
        near(residual.grad, exact.grad, torch.float32) if exact.numel() else None
        residual.grad = update.grad = None
        gpu.add_rms_norm(residual, update, ones, EPS, torch.float32)[1].sum().backward()
        assert residual.grad is not None and torch.equal(residual.grad, torch.ones_like(residual))
    zeros = torch.zeros(2, 16, device=DEVICE)
    assert torch.equal(gpu.add_rms_norm(zeros, zeros, ones, EPS, torch.float32)[0], zeros)
    steep = torch.full_like(zeros, -1e4)
    assert torch.equal(gpu.gated_rms_norm(ones.expand(2, 16), steep, ones, EPS, 16), zeros)


@pytest.mark.usefixtures("few_programs")
def test_edges_of_layer_norms() -> None:
    """No rows, more than two dimensions, and a gradient that is broadcast."""
    ones = torch.ones(16, device=DEVICE)
    for shape in ((0, 16), (2, 3, 16)):
        residual = Random(0)(*shape).float().to(DEVICE).requires_grad_()
        normed = gpu.add_layer_norm(residual, None, ones, ones, EPS, torch.float32)
        assert normed.shape == shape
        normed.sum().backward()
        assert residual.grad is not None and residual.grad.shape == shape and residual.grad.isfinite().all()
    zeros = torch.zeros(2, 16, device=DEVICE)
    assert torch.equal(gpu.add_layer_norm(zeros, zeros, ones, ones, 1e-5, torch.float32), zeros + 1)


interpreter_only = pytest.mark.skipif(not INTERPRETED, reason="a GPU's models are tested with them anyway")


@interpreter_only
@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_a_small_mamba_equals_the_one_without(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are recomputed or not."""
    from transformers import AutoConfig, AutoModel

    from ssmrank.models import mamba
    from ssmrank.models.packing import pack
    from ssmrank.training.memory import recompute_layers

    calls: list[int] = []
    usual = dispatch.norm

    def runs(x: Tensor, size: int) -> dispatch.Implementation:
        calls.append(size)
        return dispatch.Implementation.GPU

    small = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 11, "state_size": 8}
    sizes: dict[str, dict[str, int]] = {"mamba": {}, "mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 2}}
    packed = pack([torch.arange(5).numpy(), torch.arange(3, 10).numpy()])
    forward = {"mamba": mamba.mamba1_forward, "mamba2": mamba.mamba2_forward}[kind]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **small, **sizes[kind])).train()
    found: list[dict[str, Tensor]] = []
    for triton_runs, recomputed, autocast in (
        (False, 0, False),
        (True, 0, False),
        (True, 0.5, False),
        (True, 1, False),
        (True, 1, True),
    ):
        recompute_layers(model, recomputed)
        model.zero_grad()
        monkeypatch.setattr(dispatch, "norm", runs if triton_runs else usual)
        with torch.autocast("cpu", BF16, enabled=autocast):
            hidden = forward(model, packed)
        assert hidden.dtype == torch.float32
        (hidden * Random(5)(*hidden.shape).float()).sum().backward()
        found.append({name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None})
        found[-1]["hidden"] = hidden.detach().double()
    for number in (1, 2, 3):
        for name, expected in found[0].items():
            error = float((found[number][name] - expected).abs().max() / expected.abs().max())
            assert error <= 1e-5, f"{number} {name}: {error:.2e}"
    # The interpreter truncates to bfloat16, so there is more noise than from rounding.
    for name, expected in found[0].items():
        noise = float((found[4][name] - expected).norm() / expected.norm())
        assert noise <= 0.15, f"{name}: {noise:.2e}"
    assert calls


@interpreter_only
@pytest.mark.parametrize("kind", ["bert", "electra", "roberta", "opt"])
def test_a_small_encoder_or_opt_equals_the_one_without(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    from ssmrank.models import backbones
    from ssmrank.models.packing import pack

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 11}
    dropouts = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout"), 0.0)
    sizes: dict[str, dict[str, Any]] = {
        "bert": {"intermediate_size": 24},
        "electra": {"intermediate_size": 24, "embedding_size": 16},
        "roberta": {"intermediate_size": 24, "max_position_embeddings": 20},
        "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16, "do_layer_norm_before": False, "max_position_embeddings": 20},
    }
    packed = pack([torch.arange(5).numpy(), torch.arange(3, 10).numpy()])
    torch.manual_seed(0)
    model = backbones.random_backbone(AutoConfig.for_model(kind, **small, **sizes[kind], **dropouts)).train()
    calls: list[int] = []

    def runs(x: Tensor, size: int) -> dispatch.Implementation:
        calls.append(size)
        return dispatch.Implementation.GPU

    found: list[dict[str, Tensor]] = []
    for triton_runs in (False, True):
        model.zero_grad()
        if triton_runs:
            monkeypatch.setattr(dispatch, "norm", runs)
        hidden = backbones.packed_forward(model, packed)
        (hidden * Random(5)(*hidden.shape).float()).sum().backward()
        found.append({name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None})
        found[-1]["hidden"] = hidden.detach().double()
    assert len(calls) >= 4
    for name, expected in found[0].items():
        # A bias that moves all keys alike has no gradient except rounding errors.
        error = float((found[1][name] - expected).abs().max() / expected.abs().max().clamp(min=1e-4))
        assert error <= 2e-5, f"{name}: {error:.2e}"
