"""Compares Mamba-1's mixer as one function with the float64 references of its parts, on the device of the command line.

Every buffer that the kernels are to fill is filled with NaN first, so that what they leave out shows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from kernel_checks import MAMBA1_PARTS, Random, assert_close, cu_seqlens, values_and_gradients
from torch import Tensor

from ssmrank.kernels import reference
from ssmrank.kernels.mixers import mamba1 as triton_mamba1
from ssmrank.kernels.selective_scan import gpu as triton_selective_scan

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)

BF16 = torch.bfloat16


def inputs_of(
    tokens: int, channels: int, states: int, hidden: int | None, *, rank: int = 6, width: int = 4, bias: bool = True
) -> dict[str, Any]:
    random = Random(channels)
    return {
        "projected": random(tokens, 2 * channels),
        "filters": random(channels, width),
        "filter_bias": random(channels) if bias else None,
        "x_weight": random(rank + 2 * states, channels) / channels**0.5,
        "dt_weight": random(channels, rank) / rank**0.5,
        "dt_bias": random(channels) - 2,
        "A_log": random(channels, states),
        "D": random(channels),
        "out_weight": None if hidden is None else random(hidden, channels) / channels**0.5,
    }


def plain(starts: Tensor, **t: Any) -> Tensor:
    x, z = t["projected"].chunk(2, dim=1)
    x = reference.causal_conv1d(x, t["filters"], t["filter_bias"], starts, "silu")
    states = t["A_log"].shape[1]
    step, b, c = (x @ t["x_weight"].T).split([t["dt_weight"].shape[1], states, states], dim=1)
    rates = -t["A_log"].exp()
    y, _ = reference.selective_scan(x, step @ t["dt_weight"].T, rates, b, c, t["D"], z, t["dt_bias"], starts)
    return y if t["out_weight"] is None else y @ t["out_weight"].T


def check(
    device: str, lengths: list[int], inputs: dict[str, Any], tolerance: float, dtype: torch.dtype = torch.float32
) -> None:
    starts = cu_seqlens(lengths)
    narrow = ("projected", "x_weight", "dt_weight", "out_weight")
    if dtype != torch.float32:
        inputs = {k: v.to(dtype).double() if k in narrow and v is not None else v for k, v in inputs.items()}

    def kernel(**tensors: Any) -> Tensor:
        assert torch.empty(3).isnan().all()
        moved = {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}
        moved |= {name: moved[name].to(dtype) for name in narrow if moved[name] is not None}
        y = triton_mamba1.mixer(**moved, cu_seqlens=starts)
        assert y.dtype == dtype
        return y.cpu()

    expected = values_and_gradients(lambda **t: plain(starts, **t), inputs, torch.float64)
    got = values_and_gradients(kernel, inputs, torch.float32)
    assert_close(got, expected, tolerance)
    with torch.no_grad():  # nothing is kept, and the output is the same
        y = kernel(**{name: None if tensor is None else tensor.float() for name, tensor in inputs.items()})
    assert torch.equal(y.double(), got["0"])


def check_model(device: str, tolerance: float) -> None:
    """A small Mamba with the function equals it without, in values and in all gradients."""
    from transformers import AutoConfig, AutoModel

    from ssmrank.models import mamba
    from ssmrank.models.packing import pack

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 11, "state_size": 8}
    packed = pack([torch.arange(5).numpy(), torch.arange(3, 10).numpy(), torch.arange(1).numpy()], device)
    usual, calls = mamba._mamba1_runs_as_one, []

    def runs(mixer: Any, projected: Tensor) -> bool:
        calls.append(projected.shape)
        return True

    for biased in (False, True):
        model = AutoModel.from_config(AutoConfig.for_model("mamba", **small, use_bias=biased)).train().to(device)
        for parameter in model.parameters():  # a new model's biases are zero
            torch.nn.init.normal_(parameter, std=0.3)
        found: list[dict[str, Tensor]] = []
        for decide in (lambda *_: False, runs):
            model.zero_grad()
            calls.clear()
            mamba._mamba1_runs_as_one = decide  # type: ignore[assignment]
            try:
                hidden = mamba.mamba1_forward(model, packed)
                (hidden * Random(5)(*hidden.shape).float().to(device)).sum().backward()
            finally:
                mamba._mamba1_runs_as_one = usual
            found.append({name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None})
            found[-1]["hidden"] = hidden.detach().double().cpu()
        assert len(calls) == 2
        assert "layers.1.mixer.A_log" in found[0]
        assert_close(found[1], found[0], tolerance)


def check_segments(device: str) -> None:
    """Segments in place of sequences, as where there are few; then states are kept in float32."""
    module = triton_selective_scan
    usual = module.SEGMENT, module.ENOUGH
    module.SEGMENT, module.ENOUGH = 16, 1 << 30
    for dtype, tolerance in ((torch.float32, 2e-5 if device == "cpu" else 1e-4), (BF16, 4e-2)):
        check(device, [40, 0, 57], inputs_of(97, 32, 4, 16), tolerance, dtype)
    module.SEGMENT, module.ENOUGH = usual


def check_sizes(device: str, rounded: bool) -> None:
    """Sizes of real models, with the states kept rounded or not."""
    triton_mamba1.ROUND_STATES = rounded
    mixed = [130, 1, 0, 300, 64]
    for channels, hidden in ((256, 128), (512, None), (96, 64)):
        for dtype, tolerance in ((torch.float32, 1e-4), (BF16, 4e-2)):
            check(device, mixed, inputs_of(sum(mixed), channels, 16, hidden, rank=16), tolerance, dtype)


PARTS = {
    "segments": check_segments,
    "rounded": lambda device: check_sizes(device, rounded=True),
    "exact": lambda device: check_sizes(device, rounded=False),
    "model": lambda device: check_model(device, 1e-4),
}
assert tuple(PARTS) == MAMBA1_PARTS


def main(device: str, *parts: str) -> None:
    if device != "cpu":
        for part in parts or PARTS:
            PARTS[part](device)
        return
    lengths = [1, 0, 37, 16]
    check(device, lengths, inputs_of(sum(lengths), 40, 8, 24), 2e-5)
    check(device, [0, 5], inputs_of(5, 16, 5, None, width=2, bias=False), 2e-5)
    for rounded in (True, False):
        triton_mamba1.ROUND_STATES = rounded
        check(device, lengths, inputs_of(sum(lengths), 32, 8, 24), 4e-2, BF16)
    triton_mamba1.ROUND_STATES = True
    check_model(device, 2e-5)
    check_segments(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
    print("agrees with the reference")
