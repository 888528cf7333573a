"""Where the time of a training step or of a reranked batch goes: a GPU's kernels, sorted by time.

    python benchmarks/step_profile.py --model Mamba-2-370M --implementation ssmrank --sequences 64
    python benchmarks/step_profile.py --rerank --model Mamba-2-370M --sequences 128

A step is that of the benchmarks: forward, backward and AdamW on random tokens of equal length, or with `--rerank` the
scores of one batch of pairs. Prints the share of the step in which the GPU is busy, the number of kernels, and the
kernels that take the most time.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import contenders
import torch
from peers import IMPLEMENTATIONS, training_step
from shapes import CLASSES, Shape
from torch.profiler import ProfilerActivity, profile
from workloads import equal_sequences

from ssmrank.models.precision import Precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=[shape.name for shapes in CLASSES.values() for shape in shapes])
    parser.add_argument("--implementation", nargs="+", choices=IMPLEMENTATIONS, default=["ssmrank"])
    parser.add_argument("--rerank", action="store_true", help="ours, forward only, as reranking does it")
    parser.add_argument("--precision", choices=["bf16", "fp8"], default="bf16", help="of --rerank")
    parser.add_argument("--sequences", type=int, nargs="+", default=[64])
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--config", type=json.loads, default={}, help='changed keys, such as {"num_hidden_layers": 2}')
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kernels", type=int, default=25, help="how many are printed")
    arguments = parser.parse_args()
    if arguments.rerank and arguments.implementation != ["ssmrank"]:
        parser.error("--rerank profiles ssmrank alone; reranking.py times the others")
    shapes = {shape.name: shape for shapes in CLASSES.values() for shape in shapes}
    for name in arguments.model:
        for implementation in arguments.implementation:
            for sequences in arguments.sequences:
                shape = replace(shapes[name], config=shapes[name].config | arguments.config)
                lengths = [arguments.length] * sequences
                if arguments.rerank:
                    step = _reranking(shape, sequences, arguments.length, arguments.precision)
                else:
                    step = training_step(shape, implementation, lengths, "bf16", torch.device("cuda"))
                if step is not None:
                    kind = f"{arguments.precision} {arguments.config or ''}"
                    print(f"\n{name}, {implementation}, {sequences} x {arguments.length}, {kind}")
                    torch.cuda.reset_peak_memory_stats()
                    _profile(step, sequences * arguments.length, arguments.steps, arguments.kernels)
                del step
                torch.cuda.empty_cache()


def _reranking(shape: Shape, count: int, length: int, precision: Precision) -> Callable[[], None]:
    engine = contenders.Ours(shape, length, precision, torch.device("cuda"))
    return engine.step(equal_sequences(shape, count, length), count * length, share=False)[0]


def _profile(step, tokens: int, steps: int, shown: int) -> None:
    for _ in range(4):
        step()
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(steps):
        step()
    end.record()
    torch.cuda.synchronize()
    wall = start.elapsed_time(end) / steps
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    times: dict[str, list[float]] = defaultdict(list)
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name].append(event.device_time / 1e3)
    busy = sum(map(sum, times.values())) / steps
    launches = sum(map(len, times.values())) / steps
    print(f"{wall:.1f} ms a step, {tokens / wall * 1e3:,.0f} tokens/s; {launches:.0f} kernels take {busy:.1f} ms")
    print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    for name, spent in sorted(times.items(), key=lambda item: -sum(item[1]))[:shown]:
        total = sum(spent) / steps
        print(f"{total:8.2f} ms {100 * total / busy:5.1f}% {len(spent) / steps:6.0f} x  {name[:100]}")


if __name__ == "__main__":
    main()
