"""Compares the Triton norms with the float64 reference on the device named on the command line.

Every buffer that a kernel is to fill is filled with NaN first, so that what it leaves out shows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from kernel_checks import Random, assert_close, values_and_gradients
from torch import Tensor

from ssmrank.kernels import norms
from ssmrank.kernels.gpu.rows import WIDEST
from ssmrank.kernels.norms import gpu as triton_norms

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)

EPS = 0.1
"""Large, so that the gradient of a single channel's norm is no difference of nearly equal terms."""
BF16 = torch.bfloat16


def add_reference(residual: Tensor, update: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = residual if update is None else residual + update
    return norms.norm_reference(total, None, weight, EPS, len(weight)), total


def check_add(device: str, rows: int, channels: int, update: bool) -> None:
    random = Random(channels)
    shapes = {"residual": (rows, channels), "update": (rows, channels), "weight": (channels,)}
    inputs = {name: random(*shape) for name, shape in shapes.items() if update or name != "update"}

    def kernel(which: slice, residual: Tensor, weight: Tensor, update: Tensor | None = None) -> Any:
        assert torch.empty(3).isnan().all()
        moved = residual.to(device), None if update is None else update.to(device), weight.to(device)
        return tuple(y.cpu() for y in triton_norms.add_rms_norm(*moved, EPS, torch.float32)[which])

    def plain(which: slice, residual: Tensor, weight: Tensor, update: Tensor | None = None) -> Any:
        return add_reference(residual, update, weight)[which]

    for which in (slice(0, 2), slice(0, 1)):  # the stream goes on, or it ends in its norm
        expected = values_and_gradients(lambda which=which, **x: plain(which, **x), inputs, torch.float64)
        got = values_and_gradients(lambda which=which, **x: kernel(which, **x), inputs, torch.float32)
        assert_close(got, expected, 2e-6)


def leaf(tensor: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    return tensor.to(device, dtype).requires_grad_()


def wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double().requires_grad_()


def near(got: Tensor | None, expected: Tensor | None, dtype: torch.dtype) -> None:
    """As close as rounding the result to `dtype` leaves it (the interpreter truncates): computed in float32."""
    assert got is not None and expected is not None
    assert got.dtype == dtype
    scale = float(expected.detach().abs().max())
    relative = 0.0 if dtype != BF16 else 2**-8 if got.is_cuda else 2**-7
    torch.testing.assert_close(got.detach().cpu().double(), expected.detach(), rtol=relative, atol=3e-6 * scale)


def layer_reference(residual: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    total = residual if update is None else residual + update
    return torch.nn.functional.layer_norm(total, weight.shape, weight, bias, EPS)


def check_layer(device: str, rows: int, channels: int, update: bool) -> None:
    random = Random(channels)
    wide_shape, shape = (rows, channels), (channels,)
    shapes = {"residual": wide_shape, "update": wide_shape, "weight": shape, "bias": shape}
    inputs = {name: random(*shape) for name, shape in shapes.items() if update or name != "update"}
    inputs["residual"] = inputs["residual"] + 5

    def kernel(residual: Tensor, weight: Tensor, bias: Tensor, update: Tensor | None = None) -> Tensor:
        assert torch.empty(3).isnan().all()
        moved = residual.to(device), None if update is None else update.to(device), weight.to(device), bias.to(device)
        return triton_norms.add_layer_norm(*moved, EPS, torch.float32).cpu()

    def plain(residual: Tensor, weight: Tensor, bias: Tensor, update: Tensor | None = None) -> Tensor:
        return layer_reference(residual, update, weight, bias)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 4e-6)
    with torch.no_grad():
        single = {name: tensor.float() for name, tensor in inputs.items()}
        near(kernel(**single), plain(**inputs), torch.float32)


def check_layer_of_mixed_types(device: str, stream: torch.dtype, weights: torch.dtype) -> None:
    """A bfloat16 update to a stream, both strided; the norm in bfloat16."""
    rows, channels = 9, 40
    random = Random(0)
    residual = leaf(random(rows, channels), stream, device)
    joint = leaf(random(rows, 2 * channels), BF16, device)
    weight, bias = (leaf(random(channels), weights, device) for _ in range(2))
    exact = [wide(tensor) for tensor in (residual, joint, weight, bias)]
    normed = triton_norms.add_layer_norm(residual, joint[:, channels:], weight, bias, EPS, BF16)
    summed = exact[0] + exact[1][:, channels:]
    # A bfloat16 stream is normed as it is rounded.
    total = (residual + joint[:, channels:]).detach().cpu()
    if stream == BF16 and device == "cpu":
        total = triton_norms.add_rms_norm(residual, joint[:, channels:], weight, EPS, BF16)[1].detach()
    summed = summed + (total.double() - summed).detach()
    expected = layer_reference(summed, None, exact[2], exact[3])
    near(normed, expected, BF16)
    grad = random(rows, channels).to(BF16)
    normed.backward(grad.to(device))
    expected.backward(grad.double())
    for got, want, dtype in zip((residual, joint, weight, bias), exact, (stream, BF16, weights, weights), strict=True):
        near(got.grad, want.grad, dtype)


def check_layer_edges(device: str) -> None:
    """No rows, more than two dimensions, and a gradient that is broadcast."""
    ones = torch.ones(16, device=device)
    for shape in ((0, 16), (2, 3, 16)):
        residual = Random(0)(*shape).float().to(device).requires_grad_()
        normed = triton_norms.add_layer_norm(residual, None, ones, ones, EPS, torch.float32)
        assert normed.shape == shape
        normed.sum().backward()
        assert residual.grad is not None and residual.grad.shape == shape and residual.grad.isfinite().all()
    zeros = torch.zeros(2, 16, device=device)
    assert torch.equal(triton_norms.add_layer_norm(zeros, zeros, ones, ones, 1e-5, torch.float32), zeros + 1)


def check_gated(device: str, rows: int, channels: int, size: int) -> None:
    random = Random(channels + size)
    inputs: dict[str, Tensor | None] = {
        "x": random(rows, channels),
        "z": 4 * random(rows, channels),
        "weight": random(channels),
    }

    def kernel(**tensors: Any) -> Tensor:
        assert torch.empty(3).isnan().all()
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return triton_norms.gated_rms_norm(**moved, eps=EPS, size=size).cpu()

    def plain(**tensors: Any) -> Tensor:
        return norms.norm_reference(**tensors, eps=EPS, size=size)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 2e-6)


def check_add_of_mixed_types(device: str, stream: torch.dtype, weights: torch.dtype) -> None:
    """A bfloat16 update to a stream, both strided; the norm in bfloat16."""
    rows, channels = 9, 40
    random = Random(0)
    residual = leaf(random(rows, channels), stream, device)
    joint = leaf(random(rows, 2 * channels), BF16, device)
    weight = leaf(random(channels), weights, device)
    exact = wide(residual), wide(joint), wide(weight)
    normed, total = triton_norms.add_rms_norm(residual, joint[:, channels:], weight, EPS, BF16)
    # A bfloat16 stream is normed as it is rounded.
    summed = exact[0] + exact[1][:, channels:]
    summed = summed + (total.detach().cpu().double() - summed).detach()
    expected, _ = add_reference(summed, None, exact[2])
    near(total, exact[0] + exact[1][:, channels:], stream)
    near(normed, expected, BF16)
    grads = random(rows, channels).to(BF16), random(rows, channels).to(stream)
    torch.autograd.backward([normed, total], [grad.to(device) for grad in grads])
    torch.autograd.backward([expected, summed], [grad.double() for grad in grads])
    near(residual.grad, exact[0].grad, stream)
    near(joint.grad, exact[1].grad, BF16)
    near(weight.grad, exact[2].grad, weights)


def check_gated_of_mixed_types(device: str, weights: torch.dtype) -> None:
    """Bfloat16 slices of one projection, and a gate in float32."""
    rows, channels, size = 9, 48, 24
    random = Random(1)
    joint = leaf(random(rows, 2 * channels), BF16, device)
    weight = leaf(random(channels), weights, device)
    grad = random(rows, channels).to(BF16)
    for gate_dtype in (BF16, torch.float32):
        joint.grad = weight.grad = None
        exact = wide(joint), wide(weight)
        x, z = joint.chunk(2, dim=1)
        y = triton_norms.gated_rms_norm(x, z.to(gate_dtype), weight, EPS, size)
        expected = norms.norm_reference(*exact[0].chunk(2, dim=1), exact[1], EPS, size)
        near(y, expected, BF16)
        y.backward(grad.to(device))
        expected.backward(grad.double())
        near(joint.grad, exact[0].grad, BF16)
        near(weight.grad, exact[1].grad, weights)


def check_edges(device: str) -> None:
    """No rows, more than two dimensions, only the sum used, and gradients that are broadcast."""
    ones = torch.ones(16, device=device)
    for shape in ((0, 16), (2, 3, 16)):
        residual, update = (Random(seed)(*shape).float().to(device).requires_grad_() for seed in (0, 1))
        weight = ones.clone().requires_grad_()
        normed, total = triton_norms.add_rms_norm(residual, update, weight, EPS, torch.float32)
        gated = triton_norms.gated_rms_norm(residual, update, weight, EPS, 8)
        assert normed.shape == total.shape == gated.shape == shape
        (normed.sum() + total.sum() + gated.sum()).backward()
        assert residual.grad is not None and residual.grad.shape == shape and residual.grad.isfinite().all()
        assert weight.grad is not None and weight.grad.isfinite().all()
        exact = wide(residual)
        (add_reference(exact, wide(update), ones.cpu().double())[0].sum() + exact.sum()).backward()
        residual.grad = update.grad = None
        normed, total = triton_norms.add_rms_norm(residual, update, ones, EPS, torch.float32)
        (normed.sum() + total.sum()).backward()
        near(residual.grad, exact.grad, torch.float32) if exact.numel() else None
        residual.grad = update.grad = None
        triton_norms.add_rms_norm(residual, update, ones, EPS, torch.float32)[1].sum().backward()
        assert residual.grad is not None and torch.equal(residual.grad, torch.ones_like(residual))
    zeros = torch.zeros(2, 16, device=device)
    assert torch.equal(triton_norms.add_rms_norm(zeros, zeros, ones, EPS, torch.float32)[0], zeros)
    steep = torch.full_like(zeros, -1e4)
    assert torch.equal(triton_norms.gated_rms_norm(ones.expand(2, 16), steep, ones, EPS, 16), zeros)


def check_models() -> None:
    """A small Mamba on the CPU with these norms equals it without, layers recomputed or not."""
    from transformers import AutoConfig, AutoModel

    from ssmrank.models import mamba
    from ssmrank.models.packing import pack
    from ssmrank.training.memory import recompute_layers

    calls = []

    def runs(x: Tensor, size: int) -> bool:
        calls.append(size)
        return True

    small = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 11, "state_size": 8}
    sizes: dict[str, dict[str, int]] = {"mamba": {}, "mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 2}}
    packed = pack([torch.arange(5).numpy(), torch.arange(3, 10).numpy()])
    for kind, forward in (("mamba", mamba.mamba1_forward), ("mamba2", mamba.mamba2_forward)):
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
            original = norms._triton_runs
            norms._triton_runs = runs if triton_runs else original  # type: ignore[assignment]
            try:
                with torch.autocast("cpu", BF16, enabled=autocast):
                    hidden = forward(model, packed)
                assert hidden.dtype == torch.float32
                (hidden * Random(5)(*hidden.shape).float()).sum().backward()
            finally:
                norms._triton_runs = original
            found.append({name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None})
            found[-1]["hidden"] = hidden.detach().double()
        for number in (1, 2, 3):
            for name, expected in found[0].items():
                error = float((found[number][name] - expected).abs().max() / expected.abs().max())
                assert error <= 1e-5, f"{kind} {number} {name}: {error:.2e}"
        # The interpreter truncates to bfloat16, so the noise is more than that of rounding.
        for name, expected in found[0].items():
            noise = float((found[4][name] - expected).norm() / expected.norm())
            assert noise <= 0.15, f"{kind} {name}: {noise:.2e}"
    assert calls


def check_encoders() -> None:
    """Small encoders and an OPT on the CPU with these layer norms equal those without."""
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
    for kind, own in sizes.items():
        torch.manual_seed(0)
        model = backbones.random_backbone(AutoConfig.for_model(kind, **small, **own, **dropouts)).train()
        calls: list[int] = []
        found: list[dict[str, Tensor]] = []
        for triton_runs in (False, True):
            model.zero_grad()
            original = norms._triton_runs
            if triton_runs:
                norms._triton_runs = lambda x, size, calls=calls: calls.append(size) is None  # type: ignore[assignment]
            try:
                hidden = backbones.packed_forward(model, packed)
                (hidden * Random(5)(*hidden.shape).float()).sum().backward()
            finally:
                norms._triton_runs = original
            found.append({name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None})
            found[-1]["hidden"] = hidden.detach().double()
        assert len(calls) >= 4, kind
        for name, expected in found[0].items():
            # A bias that moves all keys alike has no gradient but rounding.
            error = float((found[1][name] - expected).abs().max() / expected.abs().max().clamp(min=1e-4))
            assert error <= 2e-5, f"{kind} {name}: {error:.2e}"


def main(device: str) -> None:
    programs, triton_norms.PROGRAMS = triton_norms.PROGRAMS, 7
    for rows, channels in ((1, 1), (1, 40), (3, 129), (23, 64), (40, 100)):
        check_add(device, rows, channels, update=True)
        check_layer(device, rows, channels + 7, update=True)  # of few, little is left
    check_add(device, 8, 5, update=False)
    check_layer(device, 8, 5, update=False)
    for rows, channels, size in ((1, 40, 40), (3, 129, 43), (23, 64, 8), (40, 100, 100), (9, 6, 1)):
        check_gated(device, rows, channels, size)
    for stream in (torch.float32, BF16):
        for weights in (torch.float32, BF16):
            check_add_of_mixed_types(device, stream, weights)
            check_layer_of_mixed_types(device, stream, weights)
    for weights in (torch.float32, BF16):
        check_gated_of_mixed_types(device, weights)
    check_edges(device)
    check_layer_edges(device)
    triton_norms.PROGRAMS = programs
    check_add(device, 2, 33, update=True)
    check_gated(device, 2, 66, 33)
    if device == "cpu":
        check_models()
        check_encoders()
        return
    check_add(device, 5000, 768, update=True)
    check_layer(device, 5000, 768, update=True)
    check_layer(device, 300, WIDEST, update=True)
    check_add(device, 300, WIDEST, update=True)
    check_gated(device, 5000, 1536, 1536)
    check_gated(device, 300, 5120, 640)
    check_gated(device, 30, WIDEST, WIDEST)


if __name__ == "__main__":
    main(sys.argv[1])
    print("agrees with the reference")
