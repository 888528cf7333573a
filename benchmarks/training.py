"""Training and forward throughput of the packed models, of transformers' own and of mamba_ssm's, in one run.

    python benchmarks/training.py --suite small --output benchmarks/results/training-small.csv

Suites: `small` (forward and backward of 8 x 256 tokens, 4M class), `forward` (512 tokens, 130M class), `mixed`
(passages of mixed length against equal lengths), `figure1` (the paper's Figure 1: 512 tokens, batches 1 to 8, on a
GPU also 16 to 128). Random weights, medians. On a CPU contenders take turns. On a GPU each runs alone, a pass is a
whole training step with AdamW, and the peers are transformers' padded models and mamba_ssm's MixerModel.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from measure import Contender, Measurement, device_name, measure, measure_alone, write_csv
from peers import IMPLEMENTATIONS, padded_tokens, training_step
from shapes import CLASSES, Shape
from torch import nn

from ssmrank import lifetime
from ssmrank.models.backbones import packed_forward
from ssmrank.models.packing import pack
from ssmrank.models.precision import Precision, autocast, default_device
from ssmrank.startup import reuse_freed_memory

Rows = Iterator[list[Measurement]]
"""Rows, written as they are measured, in case the rest is cut off."""


def main() -> None:
    lifetime.begin()
    reuse_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--device", default=str(default_device()))
    parser.add_argument("--size", choices=CLASSES, help="class of models (default: the suite's)")
    parser.add_argument("--models", nargs="*", help="names of the class's models (default: all)")
    parser.add_argument(
        "--batches", type=int, nargs="*", help="of figure1 (default: 1 to 8, on a GPU also 16, 64, 128)"
    )
    parser.add_argument("--precision", nargs="*", choices=["fp32", "bf16"], help="default: the suite's")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each contender (default: 5)")
    parser.add_argument("--ours-only", action="store_true", help="figure1 on a GPU: no other libraries")
    parser.add_argument("--passages", type=Path, help="documents.jsonl or corpus.jsonl whose lengths `mixed` takes")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    arguments = parser.parse_args()
    rows: list[Measurement] = []
    for part in SUITES[arguments.suite](arguments):
        rows += part
        write_csv(arguments.output, rows)
    print_table(rows)


def small(arguments: argparse.Namespace) -> Rows:
    return _beside_transformers(arguments, "small", "4M", [256] * 8, ["fp32"], train=True)


def forward(arguments: argparse.Namespace) -> Rows:
    return _beside_transformers(arguments, "forward", "130M", [512], ["fp32", "bf16"], train=False)


def figure1(arguments: argparse.Namespace) -> Rows:
    if torch.device(arguments.device).type == "cuda":
        yield from _steps_on_gpu(arguments)
        return
    for batch in arguments.batches or (1, 2, 4, 8):
        yield from _beside_transformers(arguments, "figure1", "4M", [512] * batch, ["bf16"], train=True, ours_only=True)


def _steps_on_gpu(arguments: argparse.Namespace) -> Rows:
    """Whole training steps; the peers only at some of the batch sizes."""
    for shape in _shapes(arguments, "330M"):
        for batch in arguments.batches or (1, 2, 4, 8, 16, 64, 128):
            peers = batch in (1, 16, 64) and not arguments.ours_only
            for name in IMPLEMENTATIONS if peers else IMPLEMENTATIONS[:1]:
                yield from _step_alone("figure1", shape, name, name, [512] * batch, arguments.runs)


def _step_alone(
    benchmark: str, shape: Shape, implementation: str, label: str, lengths: Sequence[int], runs: int, order: str = ""
) -> Rows:
    device = torch.device("cuda")
    computed = sum(lengths) if implementation == "ssmrank" else padded_tokens(lengths, order)
    row = _row(benchmark, shape, label, "bf16", lengths, computed, device)
    measured = measure_alone(row, lambda: training_step(shape, implementation, lengths, "bf16", device, order), runs)
    if measured is not None:
        yield [measured]


def mixed(arguments: argparse.Namespace) -> Rows:
    """Groups of 16 passages of real lengths, compared with the same number of tokens in equal lengths."""
    device = torch.device(arguments.device)
    lengths = _passage_lengths(arguments.passages, groups=2 if device.type == "cpu" else 32)
    equal = [round(sum(lengths) / len(lengths))] * len(lengths)
    if device.type == "cuda":
        yield from _mixed_on_gpu(arguments, lengths, equal)
        return
    for precision in arguments.precision or ["fp32"]:
        for train in (True, False):
            for shape in _shapes(arguments, "4M"):
                model = shape.ours().to(device).train(train)
                step = _step_of(train)
                contenders: list[Contender] = []
                for name, batch in [("equal lengths", equal), ("mixed lengths", lengths)]:
                    label = f"{'train' if train else 'forward'}, {name}"
                    row = _row("mixed", shape, f"ssmrank, {label}", precision, batch, sum(batch), device)
                    contenders.append(
                        (row, step(model, _packed(model, shape, batch, device), precision, device), arguments.runs)
                    )
                yield measure(contenders, device)
    random, by_length = (padded_tokens(lengths, order, size=16) / sum(lengths) for order in ("random", "sorted"))
    print(f"padding of {len(lengths)} passages: random batches of 16 compute {random:.2f} tokens for each real one,")
    print(f"length-sorted batches {by_length:.2f}; packed batches 1.00")


def _mixed_on_gpu(arguments: argparse.Namespace, lengths: list[int], equal: list[int]) -> Rows:
    """Whole training steps; the padded peers use batches of 64, unsorted and sorted by length."""
    for shape in _shapes(arguments, "330M"):
        contenders = [("ssmrank", "equal lengths", equal, ""), ("ssmrank", "mixed lengths", lengths, "")]
        contenders += [("transformers", f"{order} batches", lengths, order) for order in ("random", "sorted")]
        for name, label, batch, order in contenders:
            yield from _step_alone("mixed", shape, name, f"{name}, {label}", batch, arguments.runs, order)


SUITES: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "small": small,
    "forward": forward,
    "mixed": mixed,
    "figure1": figure1,
}


def _beside_transformers(
    arguments: argparse.Namespace,
    benchmark: str,
    size: str,
    lengths: list[int],
    precisions: list[Precision],
    train: bool,
    ours_only: bool = False,
) -> Rows:
    device = torch.device(arguments.device)
    for precision in arguments.precision or precisions:
        for shape in _shapes(arguments, size):
            step = _step_of(train)
            ours = shape.ours().to(device).train(train)
            contenders: list[Contender] = [
                (
                    _row(benchmark, shape, "ssmrank", precision, lengths, sum(lengths), device),
                    step(ours, _packed(ours, shape, lengths, device), precision, device),
                    arguments.runs,
                )
            ]
            if not ours_only:
                theirs = shape.theirs().to(device).train(train)
                # A backward pass of transformers' Mamba-1 without kernels takes minutes on a CPU.
                slow = train and shape.config["model_type"] == "mamba" and device.type == "cpu"
                contenders.append(
                    (
                        _row(benchmark, shape, "transformers", precision, lengths, len(lengths) * max(lengths), device),
                        step(theirs, _padded(theirs, lengths, device), precision, device),
                        1 if slow else arguments.runs,
                    )
                )
            yield measure(contenders, device)


Forward = Callable[[], torch.Tensor]


def _packed(model: nn.Module, shape: Shape, lengths: Sequence[int], device: torch.device) -> Forward:
    packed = pack(_sequences(model, lengths), device)
    index = packed.first if shape.pools_first else packed.last
    return lambda: packed_forward(model, packed).index_select(0, index)


def _padded(model: nn.Module, lengths: Sequence[int], device: torch.device) -> Forward:
    ids = torch.from_numpy(np.stack(_sequences(model, lengths))).to(device)
    return lambda: model(input_ids=ids).last_hidden_state[:, -1]


def _sequences(model: nn.Module, lengths: Sequence[int]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(10, model.config.vocab_size, length) for length in lengths]


def _step_of(train: bool) -> Callable[[nn.Module, Forward, Precision, torch.device], Callable[[], None]]:
    def training_step(model: nn.Module, run: Forward, precision: Precision, device: torch.device) -> Callable[[], None]:
        def step() -> None:
            model.zero_grad(set_to_none=True)
            with autocast(precision, device):
                output = run()
            output.float().pow(2).mean().backward()

        return step

    def forward_step(model: nn.Module, run: Forward, precision: Precision, device: torch.device) -> Callable[[], None]:
        def step() -> None:
            with torch.inference_mode(), autocast(precision, device):
                run()

        return step

    return training_step if train else forward_step


def _row(
    benchmark: str,
    shape: Shape,
    implementation: str,
    precision: Precision,
    lengths: Sequence[int],
    computed: int,
    device: torch.device,
) -> Measurement:
    equal = len(set(lengths)) == 1
    batch = f"{len(lengths)} x {lengths[0]}" if equal else f"{len(lengths)} of {min(lengths)} to {max(lengths)}"
    return Measurement(
        benchmark, shape.name, implementation, precision, batch, sum(lengths), computed, device_name(device)
    )


def _shapes(arguments: argparse.Namespace, size: str) -> list[Shape]:
    shapes = CLASSES[arguments.size or size]
    return [shape for shape in shapes if not arguments.models or shape.name in arguments.models]


def _passage_lengths(path: Path | None, groups: int) -> list[int]:
    """Token counts of the first passages of a file, 16 per group: words times 1.4, plus the template's tokens."""
    if path is None:
        raise SystemExit("--suite mixed needs --passages: documents.jsonl of a collection")
    lengths = []
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            lengths.append(int(1.4 * len(json.loads(line)["text"].split())) + 12)
            if len(lengths) == 16 * groups:
                break
    return lengths


def print_table(rows: Sequence[Measurement]) -> None:
    """Prints each row's median and its ratio to transformers' row of the same setting."""
    for row in rows:
        peer = next(
            (
                other
                for other in rows
                if other.implementation == "transformers"
                and (other.benchmark, other.model, other.precision, other.batch)
                == (row.benchmark, row.model, row.precision, row.batch)
            ),
            None,
        )
        ratio = f"{peer.seconds / row.seconds:6.2f}x" if peer and peer.seconds and row.seconds else " " * 7
        speed = "OOM" if row.tokens_per_second is None else f"{row.tokens_per_second:>10,.0f} tokens/s"
        print(f"{row.model:14} {row.precision} {row.batch:18} {row.implementation:32} {speed} {ratio}")


if __name__ == "__main__":
    main()
