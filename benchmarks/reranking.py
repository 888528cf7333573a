"""Reranking throughput with and without document reuse, beside transformers, sentence-transformers and llama.cpp.

    python benchmarks/reranking.py --output benchmarks/results/reranking-cpu.csv
    python benchmarks/reranking.py --device cuda --size 330M --precision bf16 --output reranking-gpu.csv
    python benchmarks/reranking.py --suite lengths --output benchmarks/results/lengths-cpu.csv

Suites: `sharing` (workloads of real lengths and real sharing, see workloads.py), `lengths` (equal lengths 512 to 8192,
for the measured exponents of Table 6), `table5` (a query's 100 documents in batches of 32, the paper's Table 5),
`llama` (512 tokens beside llama.cpp). Random weights, medians; contenders take turns. Where a contender would take long
it scores an even sample of the pairs: compare pairs per second. A contender whose package is missing is left out, with
a line that says so.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import contenders
import torch
from measure import Measurement, device_name, measure
from shapes import CLASSES, Shape
from workloads import Workload, read_workload, sample

from ssmrank.io.atomic import atomic_file
from ssmrank.models.precision import default_device

WORKLOADS = ["nfcorpus", "scifact", "dl19"]


@dataclass
class Row(Measurement):
    """A line of the CSV; `tokens` are those of all sequences, `computed` those that are run, padding included."""

    pairs: int = 0
    max_length: int = 0
    pairs_per_second: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default="sharing")
    parser.add_argument("--device", default=str(default_device()))
    parser.add_argument(
        "--size",
        choices=CLASSES,
        nargs="*",
        help="classes of models (default: 330M on a GPU; on a CPU 130M, for `table5` 4M as well, for `lengths` 4M)",
    )
    parser.add_argument("--models", nargs="*", help="names of the class's models (default: all)")
    parser.add_argument("--workloads", nargs="*", default=WORKLOADS, help=f"default: {' '.join(WORKLOADS)}")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--token-budget", type=int, help="default: 4096 on a CPU, 65536 on a GPU")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each contender (default: 3)")
    parser.add_argument("--few", type=int, help="pairs of slow contenders (default: 16 on a CPU, 512 on a GPU)")
    parser.add_argument("--ours-only", action="store_true", help="no other libraries")
    parser.add_argument("--llama-python", help="Python that has llama-cpp-python and gguf (default: this one)")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    arguments = parser.parse_args()
    cpu = torch.device(arguments.device).type == "cpu"
    small = {"table5": ["4M", "130M"], "lengths": ["4M"]}.get(arguments.suite, ["130M"])
    arguments.size = arguments.size or (small if cpu else ["330M"])
    arguments.precision = arguments.precision or ("fp32" if cpu else "bf16")
    arguments.token_budget = arguments.token_budget or (4096 if cpu else 65536)
    arguments.few = arguments.few or (16 if cpu else 512)
    rows: list[Row] = []
    for part in SUITES[arguments.suite](arguments):
        rows += part
        _write(arguments.output, rows)
    print_table(rows)


def sharing(arguments: argparse.Namespace):
    """Each model on each workload."""
    for name in arguments.workloads:
        workload = read_workload(name)
        print(f"{name}: {workload.note}", flush=True)
        for shape in _shapes(arguments):
            yield _measured(_contenders(arguments, workload, shape), arguments)


def _contenders(arguments: argparse.Namespace, workload: Workload, shape: Shape):
    device, precision = torch.device(arguments.device), arguments.precision
    vocabulary, max_length = shape.config["vocab_size"], arguments.max_length
    order = "query-first" if shape.pools_first else "document-first"
    pairs = workload.pairs
    if device.type == "cpu" and workload.name == "dl19":
        # A CPU takes the first two queries whole; of these 200 pairs as of all 4,300 hardly any share a document.
        pairs = [pair for pair in pairs if pair.query in ("q0", "q1")]
    everything = workload.sequences(order, vocabulary, max_length, pairs)
    together = contenders.padded_batch(device)
    few = sample(pairs, everything.lengths, arguments.few, together)
    part = workload.sequences(order, vocabulary, max_length, few)
    ours = contenders.Ours(shape, max_length, precision, device)

    def row(name: str, sequences, computed: int) -> Row:
        return Row(
            *(workload.name, shape.name, name, precision, f"{len(sequences)} pairs"),
            *(int(sequences.lengths.sum()), computed, device_name(device)),
            pairs=len(sequences),
            max_length=max_length,
        )

    if not shape.pools_first:
        step, computed = ours.step(everything, arguments.token_budget, share=True)
        yield row("ssmrank, reuse", everything, computed), step, arguments.runs
    whole = pairs if device.type == "cuda" or workload.name == "dl19" else few
    plain = workload.sequences(order, vocabulary, max_length, whole)
    step, computed = ours.step(plain, arguments.token_budget, share=False)
    yield row("ssmrank, no reuse" if not shape.pools_first else "ssmrank", plain, computed), step, arguments.runs
    if arguments.ours_only:
        return
    theirs = contenders.Theirs(shape, precision, device)
    step, computed = theirs.padded(part)
    yield row("transformers, padded", part, computed), step, arguments.runs
    if shape.pools_first:
        made = contenders.cross_encoder(shape, part, precision, device)
        if made is not None:
            yield row("sentence-transformers CrossEncoder", part, part.lengths.sum()), made, arguments.runs
    elif workload.name != "dl19":  # there nothing is shared
        fewer = [pair for pair in pairs if pair.document == "d0"]
        cached = workload.sequences(order, vocabulary, max_length, fewer)
        made = theirs.cached(cached)
        if made is not None:
            yield row("transformers, own cache", cached, made[1]), made[0], arguments.runs


def lengths(arguments: argparse.Namespace):
    """As many tokens in sequences of every length: how time a token grows with the length."""
    device = torch.device(arguments.device)
    tokens = 8192 if device.type == "cpu" else 131072
    shapes = [_longer(shape) for shape in _shapes(arguments)]
    for shape in shapes:
        ours = contenders.Ours(shape, 8192, arguments.precision, device)
        steps = []
        for length in (512, 1024, 2048, 4096, 8192):
            count = max(1, tokens // length)
            sequences = _equal(shape, count, length)
            step, computed = ours.step(sequences, tokens, share=False)
            row = Row(
                *("lengths", shape.name, "ssmrank", arguments.precision, f"{count} x {length}"),
                *(count * length, computed, device_name(device)),
                pairs=count,
                max_length=length,
            )
            steps.append((row, step, arguments.runs))
        yield _measured(steps, arguments)


def table5(arguments: argparse.Namespace):
    """Queries per second are pairs per second over 100: a query has 100 documents, in batches of 32."""
    workload = read_workload("msmarco-documents")
    device = torch.device(arguments.device)
    for max_length in (512, 1536):
        for shape in _shapes(arguments):
            if max_length > 512 and shape.pools_first:
                continue
            order = "query-first" if shape.pools_first else "document-first"
            sequences = workload.sequences(order, shape.config["vocab_size"], max_length)
            few = sample(workload.pairs, sequences.lengths, 100 if device.type == "cuda" else 8, 4)
            part = workload.sequences(order, shape.config["vocab_size"], max_length, few)
            ours = contenders.Ours(shape, max_length, arguments.precision, device)
            step, computed = ours.step_by_count(part, 32)
            row = Row(
                *("table5", shape.name, "ssmrank", arguments.precision, f"{min(32, len(part))} pairs"),
                *(int(part.lengths.sum()), computed, device_name(device)),
                pairs=len(part),
                max_length=max_length,
            )
            yield _measured([(row, step, arguments.runs)], arguments)


def llama(arguments: argparse.Namespace):
    """512 tokens through llama.cpp and through ours, one pair at a time as llama.cpp takes them, and four at a time."""
    device = torch.device(arguments.device)
    for shape in _shapes(arguments):
        if shape.config["model_type"] not in ("mamba", "mamba2"):
            continue
        ours = contenders.Ours(shape, 512, arguments.precision, device)
        steps = []

        def row(name: str, precision: str, count: int, model: str = shape.name) -> Row:
            return Row(
                *("llama", model, name, precision, f"{count} x 512", count * 512, count * 512, device_name(device)),
                pairs=count,
                max_length=512,
            )

        for count in (1, 4):
            step, _ = ours.step(_equal(shape, count, 512), 512 * count, share=False)
            steps.append((row("ssmrank, no reuse", arguments.precision, count), step, arguments.runs))
        for kind in ("f32", "q8_0") if shape.config["model_type"] == "mamba2" else ("f32", "f16"):
            made = contenders.llama_cpp(shape, kind, 512, arguments.llama_python)
            if made is not None:
                steps.append((row("llama.cpp", kind, 1), made, arguments.runs))
        yield _measured(steps, arguments)


SUITES: dict[str, Callable] = {"sharing": sharing, "lengths": lengths, "table5": table5, "llama": llama}


def _equal(shape: Shape, count: int, length: int):
    """So many pairs, each of another document, of this length: all but 16 tokens are the document's."""
    workload = Workload("equal", "", [length - 17] * count, [16], [[0]] * count)
    order = "query-first" if shape.pools_first else "document-first"
    return workload.sequences(order, shape.config["vocab_size"], length)


def _longer(shape: Shape) -> Shape:
    learned = "max_position_embeddings" if shape.config["model_type"] in ("bert", "opt") else None
    return Shape(shape.name, shape.config | ({learned: 8200} if learned else {}))


def _shapes(arguments: argparse.Namespace) -> list[Shape]:
    shapes = [shape for size in arguments.size for shape in CLASSES[size]]
    return [shape for shape in shapes if not arguments.models or shape.name in arguments.models]


def _measured(made, arguments: argparse.Namespace) -> list[Row]:
    rows = measure(list(made), torch.device(arguments.device))
    for row in rows:
        row.pairs_per_second = round(row.pairs / row.seconds, 3) if row.seconds else None
    return rows


def _write(path: Path, rows: Sequence[Row]) -> None:
    with atomic_file(path) as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if value is None else value for key, value in asdict(row).items()})


def print_table(rows: Sequence[Row]) -> None:
    """Each row's pairs per second, and how many times transformers' padded ones that is."""
    for row in rows:
        peer = next(
            (
                other
                for other in rows
                if other.implementation == "transformers, padded"
                and (other.benchmark, other.model) == (row.benchmark, row.model)
            ),
            None,
        )
        speed = "OOM" if row.pairs_per_second is None else f"{row.pairs_per_second:>10,.2f} pairs/s"
        ratio = f"{row.pairs_per_second / peer.pairs_per_second:7.2f}x" if peer and row.pairs_per_second else ""
        fewer = f"{row.tokens / row.computed:6.1f}x fewer tokens" if row.computed else ""
        print(f"{row.benchmark:18} {row.model:13} {row.implementation:36} {row.batch:12} {speed} {ratio} {fewer}")


if __name__ == "__main__":
    main()
