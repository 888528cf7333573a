"""Whole models whose projections are in 8-bit floats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmrank.errors import UserError
from ssmrank.kernels.float8 import quantized
from ssmrank.models.architectures import architecture_of
from ssmrank.models.backbones import load_backbone, pooled_forward, scored_forward
from ssmrank.models.float8 import Float8Linear, to_float8
from ssmrank.models.packing import moved, pack
from ssmrank.models.precision import resolve_precision
from ssmrank.models.prefix_sharing import pack_shared
from tiny_models import CAUSAL, SHAPES, is_causal

LENGTHS = [5, 17, 1, 33, 8, 8, 30, 9]


def sequences(vocabulary):
    generator = np.random.default_rng(3)
    return [generator.integers(4, vocabulary, length) for length in LENGTHS]


def rounded(linear, x):
    """A linear layer that rounds both factors, in plain PyTorch with the layer's own weights."""
    rows = quantized(x.reshape(-1, x.shape[-1])).wide().reshape(x.shape)
    y = F.linear(rows, quantized(linear.weight).wide(), linear.bias)
    return y.bfloat16()


def pooling(shape):
    return "last" if is_causal(shape) else "first"


def change(backbone):
    to_float8(backbone, architecture_of(backbone.config.model_type))


@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(32, 16, True), (48, 21, True), (16, 3, False)])
def test_a_layer_rounds_both_of_its_factors(inputs, outputs, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(inputs, outputs, bias=bias), torch.randn(2, 5, inputs)
    layer = Float8Linear(linear)
    found = layer(x)
    assert found.shape == (2, 5, outputs)
    torch.testing.assert_close(found, rounded(linear, x), rtol=0.02, atol=0.01)
    assert torch.equal(layer(quantized(x.flatten(0, 1))), found.flatten(0, 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_models_equal_themselves_with_rounded_factors(tiny_model, shape):
    model, plain = (load_backbone(tiny_model(shape)).eval() for _ in range(2))
    batch = pack(sequences(model.config.vocab_size))
    change(model)
    changed = {name for name, module in model.named_modules() if isinstance(module, Float8Linear)}
    assert changed
    for name, module in plain.named_modules():
        if name in changed:
            module.forward = lambda x, linear=module: rounded(linear, x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = scored_forward(model, batch, pooling(shape)).float()
        expected = pooled_forward(plain, batch, pooling(shape)).float()
    error = (found - expected).norm() / expected.norm()
    assert error < 0.1  # bfloat16's rounding decides which way an 8-bit value is rounded
    exact = load_backbone(tiny_model(shape)).eval()
    with torch.inference_mode():
        right = pooled_forward(exact, batch, pooling(shape))
    assert 0.001 < (found - right).norm() / right.norm() < 0.25


@pytest.mark.parametrize("shape", CAUSAL)
def test_shared_prefixes(tiny_model, shape):
    model = load_backbone(tiny_model(shape)).eval()
    change(model)
    [root, one, other] = (np.arange(4, 4 + length).astype(np.int32) for length in (20, 3, 5))
    lengths = np.array([20, 3, 5])
    shared, places = pack_shared(np.concatenate([root, one, other]), lengths, np.array([-1, 0, 0]))
    apart = pack([np.concatenate([root, (one, other)[place - 1]]) for place in places.tolist()])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found, expected = (scored_forward(model, batch, "last").float() for batch in (shared, apart))
    assert (found - expected).norm() / expected.norm() < 0.1  # as above


def test_what_stays_as_it_is(tiny_model):
    model = load_backbone(tiny_model("mamba"))
    change(model)
    change(model)
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert kinds["layers.0.mixer.in_proj"] is kinds["layers.0.mixer.out_proj"] is Float8Linear
    assert kinds["layers.0.mixer.x_proj"] is kinds["layers.0.mixer.dt_proj"] is nn.Linear
    last = f"layers.{len(model.layers) - 1}.mixer"
    assert kinds[f"{last}.in_proj"] is kinds[f"{last}.out_proj"] is nn.Linear


def test_a_device_without_such_products_is_an_error():
    with pytest.raises(UserError, match="precision fp8: CPU does not multiply 8-bit floats; choose bf16 or fp32"):
        resolve_precision("fp8", torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_on_a_gpu_as_on_the_cpu(tiny_model, shape):
    exact, on_cpu, model = (load_backbone(tiny_model(shape)).eval() for _ in range(3))
    batch = pack(sequences(model.config.vocab_size))
    for backbone in (on_cpu, model):
        change(backbone)
    model.cuda()
    with torch.inference_mode():
        right = scored_forward(exact, batch, pooling(shape)).float()
        with torch.autocast("cpu", torch.bfloat16):
            noise = (scored_forward(on_cpu, batch, pooling(shape)).float() - right).norm()
        with torch.autocast("cuda", torch.bfloat16):
            found = scored_forward(model, moved(batch, "cuda"), pooling(shape)).float().cpu()
    assert (found - right).norm() < 1.5 * noise + 1e-3 * right.norm()
