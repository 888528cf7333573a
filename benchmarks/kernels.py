"""Mamba's GPU kernels at a model's real shapes: their errors against float64, and how long each takes.

    python benchmarks/kernels.py --kernel ssd --set HEADS=16 FORWARD.num_warps=8

`--set` changes settings of the kernel's modules; run each combination in its own process. Inputs are random bfloat16.
Outputs are filled with NaN before they are written. The error is ‖out - ref‖ / ‖ref‖ against float64 arithmetic on the
same inputs. Prints one line for values and for each gradient, then each kernel's median time.

    python benchmarks/kernels.py --cpu benchmarks/results/kernels-cpu.csv

compares the CPU's loops with the plain PyTorch that they replace, in whole models (see cpu_loops.py); with `--tiny` it
only shows, in seconds, that all of them run.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cpu_loops
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ssmrank.kernels.causal_conv import reference as conv_reference
from ssmrank.kernels.selective_scan import ScanInputs
from ssmrank.kernels.selective_scan import reference as scan_reference
from ssmrank.kernels.ssd import SSDInputs
from ssmrank.kernels.ssd.chunked import ssd_chunked

MODULES = {
    "ssd": ("ssd.gpu", "ssd.gpu_forward", "ssd.gpu_backward", "ssd.gpu_tiles"),
    "scan": ("selective_scan.gpu",),
    "conv": ("causal_conv.gpu",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--kernel", choices=MODULES)
    what.add_argument("--cpu", type=Path, metavar="CSV", help="compare the CPU's loops with plain PyTorch")
    parser.add_argument("--tiny", action="store_true", help="with --cpu: small models and short texts")
    parser.add_argument("--lengths", type=int, nargs="+", help="of the sequences (default: 64 times 512)")
    parser.add_argument("--width", type=int, default=1024, help="of the model (default: 1024)")
    parser.add_argument("--states", type=int, help="default: 128 for ssd, 16 for scan")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME[.KEY]=VALUE")
    arguments = parser.parse_args()
    if arguments.cpu:
        cpu_loops.main(arguments.cpu, cpu_loops.TINY if arguments.tiny else cpu_loops.USUAL)
        return
    modules = [importlib.import_module(f"ssmrank.kernels.{name}") for name in MODULES[arguments.kernel]]
    for change in arguments.set:
        name, value = change.split("=")
        name, _, key = name.partition(".")
        changed = [module for module in modules if hasattr(module, name)]
        if not changed:
            raise SystemExit(f"{arguments.kernel} has no setting {name}")
        for module in changed:
            if key:
                getattr(module, name)[key] = ast.literal_eval(value)
            else:
                setattr(module, name, ast.literal_eval(value))
    lengths = arguments.lengths or [512] * 64
    states = arguments.states or {"ssd": 128, "scan": 16, "conv": 0}[arguments.kernel]
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    run, inputs = {"ssd": _ssd, "scan": _scan, "conv": _conv}[arguments.kernel](
        modules[0], lengths, arguments.width, states
    )
    title = f"{arguments.kernel} {' '.join(arguments.set)}"
    print(f"{title}: {len(lengths)} sequences, {sum(lengths)} tokens, width {arguments.width}", flush=True)
    _compare(run, inputs)
    torch.use_deterministic_algorithms(False)
    _time(run, inputs, title)


Run = Callable[..., Tensor]


def _starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths], device="cuda").cumsum(0)


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def _ssd(module, lengths: list[int], width: int, states: int) -> tuple[Run, dict[str, Tensor]]:
    tokens, heads = sum(lengths), 2 * width // 64
    starts = _starts(lengths)
    inputs = {
        "x": _random(tokens, heads, 64),
        "dt": _random(tokens, heads),
        "A": -torch.rand(heads, device="cuda") * 15 - 1,
        "B": _random(tokens, 1, states) / states**0.25,
        "C": _random(tokens, 1, states) / states**0.25,
        "D": _random(heads, dtype=torch.float32),
        "dt_bias": _random(heads, dtype=torch.float32) - 4,
    }

    def run(exact: bool, x, dt, A, B, C, D, dt_bias):  # type: ignore[no-untyped-def]
        inputs = SSDInputs(x, dt, A, B, C, D, dt_bias)
        if exact:
            return ssd_chunked(inputs, starts, None, chunk_size=64, need_final=False)[0]
        return module.ssd(inputs, starts, None, need_final=False)[0]

    return run, inputs


def _scan(module, lengths: list[int], width: int, states: int) -> tuple[Run, dict[str, Tensor]]:
    tokens, channels = sum(lengths), 2 * width
    starts = _starts(lengths)
    inputs = {
        "u": _random(tokens, channels),
        "delta": _random(tokens, channels),
        "A": -torch.rand(channels, states, device="cuda") * 15 - 1,
        "B": _random(tokens, states),
        "C": _random(tokens, states),
        "D": _random(channels, dtype=torch.float32),
        "z": _random(tokens, channels),
        "delta_bias": _random(channels, dtype=torch.float32) - 4,
    }

    def run(exact: bool, **tensors):  # type: ignore[no-untyped-def]
        if exact:
            return scan_reference.selective_scan(ScanInputs(**tensors), starts)[0]
        return module.selective_scan(ScanInputs(**tensors), starts, None, need_final=False)[0]

    return run, inputs


def _conv(module, lengths: list[int], width: int, states: int) -> tuple[Run, dict[str, Tensor]]:
    starts = _starts(lengths)
    inputs = {
        "x": _random(sum(lengths), 2 * width + 256),
        "weight": _random(2 * width + 256, 4, dtype=torch.float32),
        "bias": _random(2 * width + 256, dtype=torch.float32),
    }

    def run(exact: bool, x, weight, bias):  # type: ignore[no-untyped-def]
        if exact:
            return conv_reference.causal_conv1d(x, weight, bias, starts, "silu")
        return module.causal_conv1d(x, weight, bias, starts, True)

    return run, inputs


def _compare(run: Run, inputs: dict[str, Tensor]) -> None:
    results = []
    for exact in (True, False):
        leaves = {k: (v.double() if exact else v.clone()).requires_grad_() for k, v in inputs.items()}
        output = run(exact, **leaves)
        weights = torch.randn(output.shape, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
        (output * weights.to(output.dtype)).sum().backward()
        results.append({"y": output.detach()} | {name: leaf.grad for name, leaf in leaves.items()})
    reference_values, ours = results
    for name, expected in reference_values.items():
        error = float((ours[name].double() - expected).norm() / expected.norm())
        print(f"  {name:8} {error:.2e}{'' if error < 2e-2 else '  WRONG'}", flush=True)


def _time(run: Run, inputs: dict[str, Tensor], title: str) -> None:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    gradient = torch.randn_like(run(False, **leaves))

    def step() -> None:
        run(False, **leaves).backward(gradient)

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
    times: dict[str, list[float]] = defaultdict(list)
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and (
            event.name.startswith("_") or event.name.endswith("_kernel")
        ):
            times[event.name].append(event.device_time)
    for name, spent in times.items():
        calls = len(spent) // 10
        each = ", ".join(f"{statistics.median(spent[place::calls]):.0f}" for place in range(calls))
        print(f"  {name}: {each} us   ({title})", flush=True)


if __name__ == "__main__":
    main()
