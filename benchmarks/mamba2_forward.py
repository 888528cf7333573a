"""Mamba-2's forward pass with the scan that convolves and gates, on Hopper, and without it: errors of scores, times.

    python benchmarks/mamba2_forward.py OUT.csv
    python benchmarks/mamba2_forward.py OUT.csv --parts errors

errors: pairs of NFCorpus' lengths, scored by the engine in bf16 and fp8, with and without reuse of documents, compared
with plain PyTorch in float64. Random weights in the shape of Mamba-2-370M; norms have weights. Three models: of 4
layers; of 48; and of 48 whose layers each add little, as a trained model's do. An error is the root mean square over
pairs and 16 random heads, of the exact scores' standard deviation.
times: of what is between a layer's projections at 128 x 512 and 40 x 1536 tokens in bf16, in ms; both take turns, each
as a CUDA graph; medians.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import contenders
import torch
from shapes import CLASSES, Shape
from torch import Tensor
from workloads import Workload, read_workload

from ssmrank.kernels import dispatch
from ssmrank.kernels.mixers import mamba2
from ssmrank.kernels.norms import gpu as norms
from ssmrank.models.backbones import scored_forward
from ssmrank.models.packing import moved
from ssmrank.models.precision import Precision
from ssmrank.reranking.batches import plan_batches
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.sequences import PairSequences

DEVICE = torch.device("cuda")
SHAPE = next(shape for shape in CLASSES["330M"] if shape.name == "Mamba-2-370M")
HEADS = 16
TIMED = {"128 x 512": [512] * 128, "40 x 1536": [1536] * 40}
FIELDS = ["part", "model", "precision", "reuse", "implementation", "error", "ratio", "ms"]

Row = dict[str, Any]


class Model(NamedTuple):
    """A random model: its layers, the factor of what each adds, and how many pairs it scores."""

    name: str
    layers: int
    added: float
    pairs: int


MODELS = [Model("4 layers", 4, 1.0, 1024), Model("48 layers, small", 48, 0.1, 384), Model("48 layers", 48, 1.0, 384)]


def reranker_of(model: Model) -> Any:
    """The random reranker; vectors that a fresh model has equal are random too."""
    shape = Shape(SHAPE.name, SHAPE.config | {"num_hidden_layers": model.layers})
    reranker = contenders.Ours(shape, 512, "fp32", DEVICE).reranker
    with torch.no_grad():
        for layer in reranker.backbone.layers:
            mixer = layer.mixer
            mixer.out_proj.weight *= model.added
            for vector in (mixer.norm.weight, mixer.D, layer.norm.weight):
                vector += torch.randn_like(vector) / 4
    return reranker


def pairs_of(count: int) -> PairSequences:
    """About `count` pairs of NFCorpus: some documents, each with four of its queries."""
    whole = read_workload("nfcorpus")
    step = max(1, len(whole.documents) * 4 // count)
    asked = [queries[:4] for queries in whole.asked[::step]]
    kept = Workload(whole.name, whole.note, whole.documents[::step], whole.queries, asked)
    return kept.sequences("document-first", SHAPE.config["vocab_size"], 512)


def exact_states(reranker: Any, sequences: PairSequences) -> Tensor:
    """The scored tokens' states in plain PyTorch, float64 [P, hidden size]."""
    wide = copy.deepcopy(reranker.backbone).double()
    wide.config.residual_in_fp32 = False
    states = torch.empty(len(sequences), wide.config.hidden_size, dtype=torch.float64, device=DEVICE)
    for batch in plan_batches(sequences, 16384, False):
        packed, members = batch.pack()
        # Without Triton and mamba_ssm every operation is PyTorch's.
        with torch.inference_mode(), mock.patch.object(dispatch, "is_available", lambda package: False):
            states[torch.from_numpy(members).to(DEVICE)] = scored_forward(wide, moved(packed, DEVICE), "last").double()
    return states


def engine_states(reranker: Any, precision: Precision, fused: bool, sequences: PairSequences, reuse: bool) -> Tensor:
    """The same as the engine computes them: what its head reads."""
    own, seen, order = copy.deepcopy(reranker), [], []
    own.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    for scored in Scorer(own, precision, DEVICE, fused).run(enumerate(plan_batches(sequences, 65536, reuse))):
        order.append(torch.from_numpy(scored.pairs))
    states = torch.empty_like(joined := torch.cat(seen))
    states[torch.cat(order).to(DEVICE)] = joined
    return states


def errors(model: Model) -> list[Row]:
    torch.manual_seed(1)
    reranker, sequences = reranker_of(model), pairs_of(model.pairs)
    exact = exact_states(reranker, sequences)
    heads = torch.randn(exact.shape[1], HEADS, dtype=torch.float64, device=DEVICE)
    scores = exact @ heads
    spread = scores.std(0)
    rows: list[Row] = []
    for precision in ("bf16", "fp8"):
        for reuse in (False, True):
            base = None
            for fused in (False, True):
                found = engine_states(reranker, precision, fused, sequences, reuse) @ heads  # type: ignore[arg-type]
                error = float(((found - scores) / spread).square().mean().sqrt())
                base = base or error
                name = "fused" if fused else "today"
                rows.append(
                    {"part": "errors", "model": model.name, "precision": precision, "reuse": reuse}
                    | {"implementation": name, "error": error, "ratio": error / base}
                )
                print(
                    f"errors, {model.name}, {len(sequences)} pairs, {precision}, {'reuse' if reuse else 'no reuse'}, "
                    f"{name}: {error:.3e} of the spread, {error / base:.3f} of today's",
                    flush=True,
                )
    return rows


def between_projections(lengths: list[int]) -> dict[str, Callable[[], Any]]:
    """The two ways from the input projection's result to what the output projection reads."""
    torch.manual_seed(2)
    sizes = mamba2.Sizes(32, 64, 1, 128, 1e-5)
    inner, channels = 32 * 64, 32 * 64 + 2 * 128
    starts = torch.tensor([0, *lengths], device=DEVICE).cumsum(0)
    projected = torch.randn(sum(lengths), inner + channels + 32, device=DEVICE).bfloat16()
    steps = torch.exp(torch.empty(32, device=DEVICE).uniform_(-6.9, -2.3))
    own = mamba2.Parameters(
        torch.randn(channels, 4, device=DEVICE) / 2,
        torch.randn(channels, device=DEVICE) / 2,
        torch.log(torch.empty(32, device=DEVICE).uniform_(1, 16)),
        torch.ones(32, device=DEVICE),
        steps + torch.log(-torch.expm1(-steps)),
        torch.ones(inner, device=DEVICE),
    ).ready()

    def today() -> Any:
        y, _ = mamba2._scanned(projected, own, starts, sizes)
        z = mamba2._split(projected, sizes)[0]
        return norms.gated_forward(y, z, own.norm_weight, sizes.eps, inner)

    return {"today": today, "fused": lambda: mamba2._gated(projected, own, starts, sizes)}


def times(batch: str, rounds: int = 15, repeat: int = 4) -> list[Row]:
    graphs, spent = {}, {}
    for name, call in between_projections(TIMED[batch]).items():
        call()
        torch.cuda.synchronize()
        graphs[name], spent[name] = torch.cuda.CUDAGraph(), []
        with torch.cuda.graph(graphs[name]):
            for _ in range(repeat):
                call()
        graphs[name].replay()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(rounds):
        for name, graph in graphs.items():
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            spent[name].append(begin.elapsed_time(end) / repeat)
    rows = []
    for name, values in spent.items():
        rows.append({"part": "times", "model": batch, "implementation": name, "ms": statistics.median(values)})
        print(f"times, between projections, {batch}, {name}: {rows[-1]['ms']:.3f} ms", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="CSV to write")
    parser.add_argument("--parts", nargs="+", choices=["errors", "times"], default=["errors", "times"])
    arguments = parser.parse_args()
    if not dispatch.mamba2_gates_on(DEVICE, 4, 64, 128, 1):
        parser.error("needs a Hopper GPU")
    calls: list[Callable[[], list[Row]]] = []
    if "errors" in arguments.parts:
        calls += [lambda model=model: errors(model) for model in MODELS]  # type: ignore[misc]
    if "times" in arguments.parts:
        calls += [lambda batch=batch: times(batch) for batch in TIMED]  # type: ignore[misc]
    rows: list[Row] = []
    began = time.perf_counter()
    for call in calls:
        rows += call()
        with arguments.output.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        print(f"  after {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
