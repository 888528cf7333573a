"""Reranking throughput with and without document reuse, and of transformers, sentence-transformers and llama.cpp.

    python benchmarks/reranking.py --output benchmarks/results/reranking-cpu.csv
    python benchmarks/reranking.py --device cuda --suite shapes table5 --size 130M 330M 1.3B --output shapes-gpu.csv
    python benchmarks/reranking.py --device cuda --suite sharing endtoend --models Mamba-2-370M --output sharing-gpu.csv
    python benchmarks/reranking.py --suite lengths --output benchmarks/results/lengths-cpu.csv

Suites: `sharing` (workloads of real lengths and real sharing, see workloads.py), `shapes` (equal lengths, 512 and 1536
tokens), `endtoend` (from texts to a run file, see end_to_end.py), `lengths` (equal lengths 512 to 8192, for the
measured exponents of Table 6), `table5` (a query's 100 documents in batches of 32, the paper's Table 5), `llama` (512
tokens, compared with llama.cpp). Random weights, medians. On a CPU contenders take turns; on a GPU each runs alone.

A slow contender scores an even sample of the pairs, so compare pairs per second. A contender that fails or whose
package is missing is left out, with a line that says so. The CSV is written after each model.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import contenders
import torch
from end_to_end import endtoend
from measure import Contender, PairsRow, device_name, first_line, measure, write_csv
from shapes import CLASSES, Shape
from workloads import Workload, equal_sequences, fewer_documents, read_workload, sample

from ssmrank import lifetime
from ssmrank.models.precision import default_device
from ssmrank.startup import reuse_freed_memory

Made = Callable[[], Contender | None]
"""Makes a contender; prints why and returns None if there is none."""


def main() -> None:
    lifetime.begin()
    reuse_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, nargs="+", default=["sharing"])
    parser.add_argument("--device", default=str(default_device()))
    parser.add_argument(
        "--size",
        choices=CLASSES,
        nargs="*",
        help="classes of models (default: 330M on a GPU; on a CPU 130M, for `table5` 4M as well, for `lengths` 4M)",
    )
    parser.add_argument("--models", nargs="*", help="names of the classes' models (default: all)")
    parser.add_argument(
        "--workloads", nargs="*", help="default: dl19, and nfcorpus and scifact, on a GPU of all their documents"
    )
    parser.add_argument("--documents", type=int, help="documents of a workload, evenly by length (default: all)")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16", "fp8"], help="default: fp32 on a CPU, bf16 on a GPU; fp8: ours only"
    )
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--token-budget", type=int, help="default: 4096 on a CPU, 65536 on a GPU")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each contender (default: 3)")
    parser.add_argument("--few", type=int, help="pairs of slow contenders (default: 16 on a CPU, 512 on a GPU)")
    parser.add_argument("--ours-only", action="store_true", help="no other libraries")
    parser.add_argument("--unfused", action="store_true", help="`shapes`: ours also without the scan that gates")
    parser.add_argument("--llama-python", help="Python that has llama-cpp-python and gguf (default: this one)")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    arguments = parser.parse_args()
    if arguments.precision == "fp8" and not arguments.ours_only:
        parser.error("--precision fp8 needs --ours-only: the other libraries have no such products")
    cpu = torch.device(arguments.device).type == "cpu"
    sizes = arguments.size
    arguments.precision = arguments.precision or ("fp32" if cpu else "bf16")
    arguments.token_budget = arguments.token_budget or (4096 if cpu else 65536)
    arguments.few = arguments.few or (16 if cpu else 512)
    arguments.workloads = arguments.workloads or [
        "dl19",
        *(name if cpu else f"{name}-whole" for name in ("nfcorpus", "scifact")),
    ]
    rows: list[PairsRow] = []
    for suite in arguments.suite:
        small = {"table5": ["4M", "130M"], "lengths": ["4M"]}.get(suite, ["130M"])
        arguments.size = sizes or (small if cpu else ["330M"])
        began = time.perf_counter()
        for part in SUITES[suite](arguments, _shapes(arguments)):
            rows += part
            if rows:
                write_csv(arguments.output, rows)
        print(f"{suite}: {time.perf_counter() - began:.0f} s", flush=True)
    print_table(rows)


def sharing(arguments: argparse.Namespace, shapes: Sequence[Shape]):
    """Each model on each workload."""
    for shape in shapes:
        for name in arguments.workloads:
            workload = read_workload(name)
            print(f"{name}, {shape.name}: {workload.note}", flush=True)
            yield _measured(
                _sharing(arguments, fewer_documents(workload, arguments.documents or 10**9), shape), arguments
            )


def _sharing(arguments: argparse.Namespace, workload: Workload, shape: Shape) -> Iterable[Made]:
    device, precision = torch.device(arguments.device), arguments.precision
    vocabulary, max_length, runs = shape.config["vocab_size"], arguments.max_length, arguments.runs
    order = "query-first" if shape.pools_first else "document-first"
    pairs = workload.pairs
    if device.type == "cpu" and workload.name == "dl19":
        # A CPU takes all pairs of the first two queries. Hardly any of these 200 share a document, as in all 4,300.
        pairs = [pair for pair in pairs if pair.query in ("q0", "q1")]
    everything = workload.sequences(order, vocabulary, max_length, pairs)
    together = contenders.padded_batch(device)

    def some(count: int):
        return workload.sequences(
            order, vocabulary, max_length, sample(pairs, everything.lengths, count, min(together, count))
        )

    def row(name: str, sequences, computed: int) -> PairsRow:
        return PairsRow(
            *(workload.name, shape.name, name, precision, f"{len(sequences)} pairs"),
            *(int(sequences.lengths.sum()), computed, device_name(device)),
            pairs=len(sequences),
            max_length=max_length,
        )

    def ours(share: bool) -> Contender:
        engine = contenders.Ours(shape, max_length, precision, device)
        # Without reuse a GPU would take minutes for a whole workload.
        sequences = everything if share or workload.name == "dl19" else some(arguments.few * (1 if cpu else 8))
        step, computed = engine.step(sequences, arguments.token_budget, share)
        name = "ssmrank" if shape.pools_first else f"ssmrank, {'reuse' if share else 'no reuse'}"
        return row(name, sequences, computed), step, runs

    def padded() -> Contender:
        part = some(arguments.few)
        step, computed = contenders.Theirs(shape, precision, device).padded(part)
        return row("transformers, padded", part, computed), step, runs

    def cross_encoder() -> Contender | None:
        part = some(arguments.few)
        made = contenders.cross_encoder(shape, part, precision, device)
        return made and (row("sentence-transformers CrossEncoder", part, int(part.lengths.sum())), made, runs)

    def cached() -> Contender | None:
        documents = {f"d{number}" for number in range(1 if cpu else 4)}
        part = workload.sequences(order, vocabulary, max_length, [p for p in pairs if p.document in documents])
        made = contenders.Theirs(shape, precision, device).cached(part)
        return made and (row("transformers, own cache", part, made[1]), made[0], runs)

    cpu = device.type == "cpu"
    if not shape.pools_first:
        yield lambda: ours(share=True)
    yield lambda: ours(share=False)
    if arguments.ours_only or contenders.lacks_kernels(shape, device):
        return
    yield padded
    if shape.config["model_type"] == "bert":
        yield cross_encoder
    if not shape.pools_first and workload.name != "dl19":  # there nothing is shared
        yield cached


def shapes(arguments: argparse.Namespace, shapes: Sequence[Shape]):
    """Sequences of one length: 512 tokens, and 1536 if the model reads that many."""
    for shape in shapes:
        for length in (512, 1536):
            if length == 512 or not shape.pools_first:
                yield _measured(_of_length(arguments, shape, length), arguments)


def _of_length(arguments: argparse.Namespace, shape: Shape, length: int) -> Iterable[Made]:
    device, precision, runs = torch.device(arguments.device), arguments.precision, arguments.runs
    count = arguments.few * 512 // length
    sequences = equal_sequences(shape, count, length)

    def row(name: str, count: int = count) -> PairsRow:
        tokens = count * length
        return PairsRow(
            *("shapes", shape.name, name, precision, f"{count} x {length}", tokens, tokens, device_name(device)),
            pairs=count,
            max_length=length,
        )

    def ours(fused: bool = True) -> Contender:
        # Our time includes planning, packing and copying; a GPU waits for those of the first batch. The others' batches
        # are on the device before the time starts.
        more = count if device.type == "cpu" else 4 * count
        engine = contenders.Ours(shape, length, precision, device, fused)
        step, _ = engine.step(equal_sequences(shape, more, length), arguments.token_budget, share=False)
        return row("ssmrank" if fused else "ssmrank, unfused", more), step, runs

    def padded() -> Contender:
        fewer = max(1, count // 16) if contenders.expands_states(shape, device) else count
        some = equal_sequences(shape, fewer, length)
        return row("transformers, padded", fewer), contenders.Theirs(shape, precision, device).padded(some)[0], runs

    def mixer() -> Contender | None:
        made = contenders.mixer_model(shape, sequences, precision, device)
        return made and (row("mamba_ssm MixerModel"), made[0], runs)

    def cross_encoder() -> Contender | None:
        made = contenders.cross_encoder(shape, sequences, precision, device)
        return made and (row("sentence-transformers CrossEncoder"), made, runs)

    yield ours
    if arguments.unfused and shape.config["model_type"] == "mamba2":
        yield lambda: ours(fused=False)
    if arguments.ours_only:
        return
    if not contenders.lacks_kernels(shape, device):
        yield padded
    if shape.config["model_type"] in ("mamba", "mamba2"):
        yield mixer
    if shape.config["model_type"] == "bert":
        yield cross_encoder


def lengths(arguments: argparse.Namespace, shapes: Sequence[Shape]):
    """The same number of tokens in sequences of each length: how time per token grows with the length."""
    device = torch.device(arguments.device)
    tokens = 8192 if device.type == "cpu" else 131072
    for shape in map(_longer, shapes):
        if shape.config["model_type"] == "bart":  # reads at most 1,024 tokens
            continue
        ours = contenders.Ours(shape, 8192, arguments.precision, device)
        steps = []
        for length in (512, 1024, 2048, 4096, 8192):
            count = max(1, tokens // length)
            sequences = equal_sequences(shape, count, length)
            step, computed = ours.step(sequences, tokens, share=False)
            row = PairsRow(
                *("lengths", shape.name, "ssmrank", arguments.precision, f"{count} x {length}"),
                *(count * length, computed, device_name(device)),
                pairs=count,
                max_length=length,
            )
            steps.append((row, step, arguments.runs))
        yield _timed(steps, arguments)


def table5(arguments: argparse.Namespace, shapes: Sequence[Shape]):
    """Queries per second are pairs per second over 100: a query has 100 documents, in batches of 32."""
    workload = read_workload("msmarco-documents")
    device = torch.device(arguments.device)
    for max_length in (512, 1536):
        for shape in shapes:
            if max_length > 512 and shape.pools_first:
                continue
            order = "query-first" if shape.pools_first else "document-first"
            sequences = workload.sequences(order, shape.config["vocab_size"], max_length)
            few = sample(workload.pairs, sequences.lengths, 100 if device.type == "cuda" else 8, 4)
            part = workload.sequences(order, shape.config["vocab_size"], max_length, few)

            def ours(shape=shape, part=part, max_length=max_length) -> Contender:
                engine = contenders.Ours(shape, max_length, arguments.precision, device)
                step, computed = engine.step_by_count(part, 32)
                row = PairsRow(
                    *("table5", shape.name, "ssmrank", arguments.precision, f"{min(32, len(part))} pairs"),
                    *(int(part.lengths.sum()), computed, device_name(device)),
                    pairs=len(part),
                    max_length=max_length,
                )
                return row, step, arguments.runs

            yield _measured([ours], arguments)


def llama(arguments: argparse.Namespace, shapes: Sequence[Shape]):
    """512 tokens with llama.cpp, one pair at a time, and with ours, one and four pairs at a time."""
    device = torch.device(arguments.device)
    for shape in shapes:
        if shape.config["model_type"] not in ("mamba", "mamba2"):
            continue
        ours = contenders.Ours(shape, 512, arguments.precision, device)
        steps = []

        def row(name: str, precision: str, count: int, model: str = shape.name) -> PairsRow:
            return PairsRow(
                *("llama", model, name, precision, f"{count} x 512", count * 512, count * 512, device_name(device)),
                pairs=count,
                max_length=512,
            )

        for count in (1, 4):
            step, _ = ours.step(equal_sequences(shape, count, 512), 512 * count, share=False)
            steps.append((row("ssmrank, no reuse", arguments.precision, count), step, arguments.runs))
        for kind in ("f32", "q8_0") if shape.config["model_type"] == "mamba2" else ("f32", "f16"):
            made = contenders.llama_cpp(shape, kind, 512, arguments.llama_python)
            if made is not None:
                steps.append((row("llama.cpp", kind, 1), made, arguments.runs))
        yield _timed(steps, arguments)


SUITES: dict[str, Callable[[argparse.Namespace, Sequence[Shape]], Iterable[list[PairsRow]]]] = {
    "sharing": sharing,
    "shapes": shapes,
    "endtoend": endtoend,
    "lengths": lengths,
    "table5": table5,
    "llama": llama,
}


def _longer(shape: Shape) -> Shape:
    learned = "max_position_embeddings" if shape.config["model_type"] in ("bert", "opt") else None
    return Shape(shape.name, shape.config | ({learned: 8200} if learned else {}))


def _shapes(arguments: argparse.Namespace) -> list[Shape]:
    shapes = [shape for size in arguments.size for shape in CLASSES[size]]
    return [shape for shape in shapes if not arguments.models or shape.name in arguments.models]


def _measured(makers: Iterable[Made], arguments: argparse.Namespace) -> list[PairsRow]:
    """The rows of contenders. On a GPU each is made, measured and dropped before the next; on a CPU they take turns."""
    rows, waiting = [], []
    for make in makers:
        try:
            made = make()
        except Exception as error:  # the others' rows are worth having
            print(f"  a contender is left out ({first_line(error)})", flush=True)
            made = None
        if made is not None:
            waiting.append(made)
        if torch.device(arguments.device).type == "cuda":
            rows += _timed(waiting, arguments)
            waiting, made = [], None
            gc.collect()
            torch.cuda.empty_cache()
    return rows + _timed(waiting, arguments)


def _timed(made: Sequence[Contender], arguments: argparse.Namespace) -> list[PairsRow]:
    if not made:
        return []
    device = torch.device(arguments.device)
    # Ours ran a few batches when they were made, so a whole workload needs no warm-up.
    long = device.type == "cuda" and max(row.pairs for row, *_ in made) > 20000
    rows = measure(list(made), device, warmups=0 if long else 1)
    for row in rows:
        row.pairs_per_second = round(row.pairs / row.seconds, 3) if row.seconds else None
    return rows


def print_table(rows: Sequence[PairsRow]) -> None:
    """Prints each row's pairs per second and its ratio to transformers' padded batches."""
    for row in rows:
        peer = next(
            (
                other
                for other in rows
                if other.implementation == "transformers, padded"
                and (other.benchmark, other.model, other.max_length) == (row.benchmark, row.model, row.max_length)
            ),
            None,
        )
        speed = "OOM" if row.pairs_per_second is None else f"{row.pairs_per_second:>10,.2f} pairs/s"
        known = peer is not None and peer.pairs_per_second and row.pairs_per_second
        ratio = f"{row.pairs_per_second / peer.pairs_per_second:7.2f}x" if known else ""
        fewer = f"{row.tokens / row.computed:6.1f}x fewer tokens" if row.computed else ""
        print(f"{row.benchmark:18} {row.model:13} {row.implementation:36} {row.batch:13} {speed} {ratio} {fewer}")


if __name__ == "__main__":
    main()
