"""Writes the tables of README.md, docs/*.md and the kernels' README.md that come from files in the repository.

`python benchmarks/docs_tables.py` puts the table NAME of `TABLES` between the marks `<!-- table: NAME -->` and
`<!-- end of table: NAME -->`. `tests/unit/test_docs.py` fails if a page's table differs from its file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ssmrank.reporting.efficiency_tables import read_timings, speed_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"

Row = dict[str, str]
Criteria = dict[str, str]

GPU_MODELS = ("Mamba-2-370M", "Mamba-1-370M", "BERT-large", "OPT-350M")
SMALL_GPU_MODELS = ("Mamba-2-130M", "Mamba-1-130M", "BERT-base", "OPT-125M")
LARGE_GPU_MODELS = ("Mamba-2-1.3B", "Mamba-1-1.4B", "Llama-3.2-1B", "OPT-1.3B", "BART-large")
HYBRID = "Granite-4-H-350M"
CPU_MODELS = ("Mamba-2", "Mamba-1", "BERT", "OPT")
BASE_MODELS = ("Mamba-2-130M", "Mamba-1-130M", "BERT-base", "OPT-125M")
OTHERS = {
    "transformers": "transformers, padded",
    "MixerModel": "mamba_ssm MixerModel",
    "CrossEncoder": "sentence-transformers CrossEncoder",
}

MINIS = {
    "BERT-mini": "models/minis/bert/pretraining.json",
    "OPT-mini": "models/minis/opt/pretraining.json",
    "Llama-mini": "models/minis/llama/pretraining.json",
    "Mamba-1-mini": "models/minis/mamba1/pretraining.json",
    "Mamba-2-mini": "models/minis/mamba2/pretraining.json",
    "Hybrid-mini": "models/minis/hybrid/pretraining.json",
    "Mamba-2-small": "models/small/mamba2/pretraining.json",
    "Llama-small": "benchmarks/results/pretraining-llama-small.json",
}
MINI_TESTS = {
    "Held-out titles": "Held-out titles MRR@10",
    "Semanlink": "Semanlink nDCG@10",
    "NFCorpus": "NFCorpus nDCG@10",
    "SciFact": "SciFact nDCG@10",
    "Cranfield": "Cranfield nDCG@10",
}
ZERO_SHOT = ("First stage", "Distilled", "Distilled, fused with BM25")
ELSEWHERE = "Pretrained elsewhere"
CURVE = ("First stage", "Mamba-2-mini", "Four times the size", ELSEWHERE, f"{ELSEWHERE}, fused with BM25")
RETRIEVERS = ("Not trained here", "Trained here", "Variants")
RETRIEVAL_TESTS = (
    *("Held-out titles MRR@10", "Semanlink nDCG@10", "Semanlink Recall@100", "NFCorpus nDCG@10", "SciFact nDCG@10"),
    *("SciFact Recall@100", "Cranfield nDCG@10"),
)
TAGS = "Then trained on Semanlink's tags"
OWN_COLLECTION = ("First stage", "As it is", "Taught on the collection's own texts")


def read(name: str) -> list[Row]:
    """The rows of a CSV file in benchmarks/results."""
    with (RESULTS / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def find(rows: list[Row], criteria: Criteria) -> Row | None:
    """The one row that has all these values; None if there is none."""
    found = [row for row in rows if all(row[column] == value for column, value in criteria.items())]
    if len(found) > 1:
        raise ValueError(f"{len(found)} rows have {criteria}")
    return found[0] if found else None


def number(rows: list[Row], column: str, **criteria: str) -> float | None:
    """A row's value in a column."""
    row = find(rows, criteria)
    return float(row[column]) if row and row[column] else None


def shown(value: float | None, digits: int = 0, scale: float = 1.0) -> str:
    """A number with thousands separators; empty if there is none."""
    return "" if value is None else f"{value * scale:,.{digits}f}"


def ratio(value: float | None, other: float | None, digits: int = 1) -> str:
    """The ratio of two values, as text."""
    return "" if value is None or not other else f"{value / other:.{digits}f} x"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose other columns are numbers."""
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def kernels_cpu() -> str:
    """How many times faster each CPU loop makes a pass of a whole model."""
    if not (RESULTS / "kernels-cpu.csv").exists():
        return "*Not measured yet.*"
    rows = read("kernels-cpu.csv")
    passes = list(dict.fromkeys(row["benchmark"] for row in rows))
    lines = []
    for model, way in dict.fromkeys((row["model"], row["implementation"]) for row in rows):
        if way != "loops":
            ratios = []
            for title in passes:
                plain, loops = (
                    number(rows, "seconds", benchmark=title, model=model, implementation=one) for one in (way, "loops")
                )
                ratios.append(ratio(plain, loops, 2))
            lines.append([f"{model}, {way.removeprefix('plain ')}", *ratios])
    return markdown(["model, operation", *passes], lines)


def same_scores(name: str, part: Callable[[list[str], Row, Row], list[str] | None], heads: Sequence[str]) -> str:
    """A line for each model and precision, of a file's rows without and with `deterministic: batch`."""
    if not (RESULTS / name).exists():
        return "*Not measured yet.*"
    rows = read(name)
    lines = []
    for model, precision in dict.fromkeys((row["model"], row["precision"]) for row in rows):
        usual, fixed = (
            find(rows, {"model": model, "precision": precision, "deterministic": key}) for key in ("", "batch")
        )
        if usual is not None and fixed is not None:
            line = part([f"{model}, {precision}"], usual, fixed)
            lines += [] if line is None else [line]
    return markdown(heads, lines)


def same_scores_price() -> str:
    """Processor seconds for a thousand pairs with the key and without it."""

    def line(start: list[str], usual: Row, fixed: Row) -> list[str] | None:
        if not usual["seconds"]:
            return None
        seconds = [1000 * float(row["seconds"]) / float(row["pairs"]) for row in (usual, fixed)]
        return [*start, *(f"{value:.1f}" for value in seconds), f"{seconds[1] / seconds[0]:.2f} x"]

    return same_scores("same-scores-cpu.csv", line, ["model, precision", "without", "with", "ratio"])


def same_scores_noise(name: str) -> str:
    """How much scores depend on the batch without the key, and with it."""

    def line(start: list[str], usual: Row, fixed: Row) -> list[str] | None:
        if not usual.get("packings"):
            return None
        share = f"{100 * float(usual['other']):.0f}%"
        changed = (f"{row['changed']} of {row['queries']}" for row in (usual, fixed))
        pairs = f"{int(usual['packed_pairs']):,}"
        return [*start, pairs, share, usual["median"], usual["p99"], usual["most"], *changed]

    heads = ["model, precision", "pairs", "other scores", "median", "99%", "most", "top 10 changes", "with the key"]
    return same_scores(name, line, heads)


def loading_cpu() -> str:
    """CPU seconds of loading a reranker and of its first calls."""
    lines = [[row["step"], row["warm_cpu_seconds"], row["cold_cpu_seconds"]] for row in read("loading-cpu.csv")]
    return markdown(["step", "loops in the cache", "no cache"], lines)


def reuse_cpu() -> str:
    """Pairs per second of each workload: with document reuse, without, and by other libraries."""
    rows = read("reranking-cpu.csv")
    ways = {
        "with reuse": "ssmrank, reuse",
        "without reuse": "ssmrank, no reuse",
        "ssmrank": "ssmrank",
        "transformers, padded": "transformers, padded",
        "transformers, own cache": "transformers, own cache",
        "sentence-transformers": "sentence-transformers CrossEncoder",
    }
    lines = []
    for model in BASE_MODELS:
        for label, implementation in ways.items():
            speeds = [
                number(rows, "pairs_per_second", benchmark=workload, model=model, implementation=implementation)
                for workload in ("nfcorpus", "scifact", "dl19")
            ]
            if any(speed is not None for speed in speeds):
                lines.append([f"{model}, {label}", *(shown(speed, 1) for speed in speeds)])
    return markdown(["pairs/s", "NFCorpus", "SciFact", "TREC DL 2019"], lines)


def llama_cpu() -> str:
    """Pairs per second compared with llama.cpp, without reuse."""
    rows = read("reranking-llama.csv")
    names = {"ssmrank, no reuse": "ssmrank"}
    lines = []
    for model in ("Mamba-2-130M", "Mamba-1-130M"):
        for row in (row for row in rows if row["model"] == model):
            name = names.get(row["implementation"], row["implementation"])
            speed = shown(float(row["pairs_per_second"]), 2)
            lines.append([f"{model}, {name}", row["precision"], row["batch"], speed])
    return markdown(["512 tokens", "precision", "batch", "pairs/s"], lines)


def training_h200() -> str:
    """Training: thousand tokens per second at each batch size, and memory."""
    rows = [row for row in read("training-h200.csv") if row["benchmark"] == "figure1"]
    batches = ("1", "2", "4", "8", "16", "64", "128")
    names = {"ssmrank": "ssmrank", "mamba_ssm": "mamba_ssm's MixerModel", "transformers": "transformers"}
    lines = []
    for model in GPU_MODELS:
        for implementation, name in names.items():
            own = [row for row in rows if row["model"] == model and row["implementation"] == implementation]
            if not own:
                continue
            speeds = [number(own, "tokens_per_second", batch=f"{batch} x 512") for batch in batches]
            large, small = (number(own, "peak_memory_mib", batch=f"{batch} x 512") for batch in ("64", "16"))
            memory = [shown(large, 1, 1 / 1024)]
            memory.append(shown((large - small) / (48 * 512), 2) if large and small else "")
            lines.append([f"{model}, {name}", *(shown(speed, 1, 1e-3) for speed in speeds), *memory])
    return markdown(["sequences of 512 tokens", *batches, "GiB at 64", "MiB a token"], lines)


def training_mixed_h200() -> str:
    """Training on passages of mixed lengths: thousand real tokens per second."""
    rows = [row for row in read("training-h200.csv") if row["benchmark"] == "mixed"]
    ways = [f"ssmrank, {lengths} lengths" for lengths in ("equal", "mixed")]
    ways += [f"transformers, {order} batches" for order in ("random", "sorted")]
    lines = []
    for model in GPU_MODELS:
        equal, mixed, *padded = (number(rows, "tokens_per_second", model=model, implementation=way) for way in ways)
        share = f"{mixed / equal:.0%}" if mixed and equal else ""
        lines.append([model, shown(equal, 1, 1e-3), shown(mixed, 1, 1e-3), share, *(shown(x, 1, 1e-3) for x in padded)])
    return markdown(["", "equal lengths", "mixed lengths", "", "padded, random order", "padded, sorted"], lines)


def training_cpu(name: str, models: Sequence[str], precisions: Sequence[str]) -> str:
    """Tokens per second of ssmrank and of transformers."""
    rows = read(name)
    lines = []
    for model in models:
        for precision in precisions:
            ours, theirs = (
                number(rows, "tokens_per_second", model=model, implementation=implementation, precision=precision)
                for implementation in ("ssmrank", "transformers")
            )
            lines.append([f"{model}, {precision}", shown(ours), shown(theirs), ratio(ours, theirs)])
    return markdown(["tokens/s", "ssmrank", "transformers", ""], lines)


def training_mixed_cpu() -> str:
    """Tokens per second on passages of equal and of mixed lengths."""
    rows = read("training-mixed-cpu.csv")
    lines = []
    for step, label in {"train": "training", "forward": "forward"}.items():
        for model in CPU_MODELS:
            equal, mixed = (
                number(rows, "tokens_per_second", model=model, implementation=f"ssmrank, {step}, {lengths} lengths")
                for lengths in ("equal", "mixed")
            )
            share = f"{mixed / equal:.0%}" if mixed and equal else ""
            lines.append([f"{model}, {label}", shown(equal), shown(mixed), share])
    return markdown(["tokens/s", "equal lengths", "mixed lengths", ""], lines)


def lengths_cpu() -> str:
    """Tokens per second of forward passes over 8,192 tokens, in sequences of each length."""
    rows = read("lengths-cpu.csv")
    lengths = ("512", "1024", "2048", "4096", "8192")
    lines = [
        [model, *(shown(number(rows, "tokens_per_second", model=model, max_length=length)) for length in lengths)]
        for model in CPU_MODELS
    ]
    return markdown(["tokens a sequence", *lengths], lines)


def reranking_h200(length: str) -> str:
    """Pairs per second of pairs of one length."""
    rows = [row for row in read("reranking-h200.csv") if row["benchmark"] == "shapes" and row["max_length"] == length]
    lines = []
    for model in (*GPU_MODELS, HYBRID, *SMALL_GPU_MODELS, *LARGE_GPU_MODELS):
        ours = [
            number(rows, "pairs_per_second", model=model, implementation="ssmrank", precision=precision)
            for precision in ("bf16", "fp8")
        ]
        # transformers had none of the packages that have kernels for the hybrid's layers.
        others = [
            None if model == HYBRID else number(rows, "pairs_per_second", model=model, implementation=name)
            for name in OTHERS.values()
        ]
        if any((*ours, *others)):
            lines.append([model, *(shown(speed) for speed in (*ours, *others))])
    return markdown([f"{length} tokens, pairs/s", "bf16", "fp8", *OTHERS], lines)


def mamba2_fused_h200() -> str:
    """Mamba-2-370M with the scan that convolves and gates, and without it, in one run."""
    rows = [row for row in read("mamba2-fused-h200.csv") if row["model"] == "Mamba-2-370M"]
    lines = []
    for precision in ("bf16", "fp8"):
        for length in ("512", "1536"):
            one = {"precision": precision, "max_length": length}
            fused = number(rows, "pairs_per_second", implementation="ssmrank", **one)
            apart = number(rows, "pairs_per_second", implementation="ssmrank, unfused", **one)
            lines.append([f"{precision}, {length} tokens", shown(fused), shown(apart), ratio(fused, apart, 2)])
    return markdown(["pairs/s", "one kernel", "three kernels", ""], lines)


def sharing_h200() -> str:
    """Pairs per second on real collections, with and without document reuse."""
    rows = read("reranking-h200.csv")
    names = {"nfcorpus-whole": "NFCorpus", "scifact-whole": "SciFact", "dl19": "TREC DL 2019"}
    ways = ("ssmrank, reuse", "ssmrank, no reuse", "transformers, padded", "transformers, own cache")
    lines = []
    for workload, name in names.items():
        for model in (*GPU_MODELS, *LARGE_GPU_MODELS):
            criteria = {"benchmark": workload, "model": model}
            reuse = find(rows, {**criteria, "implementation": ways[0]})
            if reuse is None:
                continue
            speeds = [number(rows, "pairs_per_second", **criteria, implementation=way) for way in ways]
            times = ratio(speeds[0], speeds[2], 0)
            lines.append([f"{name}, {model}", f"{int(reuse['pairs']):,}", *map(shown, speeds), times])
    return markdown(["pairs/s", "pairs", "with reuse", "without", *ways[2:], "reuse / padded"], lines)


def end_to_end_h200() -> str:
    """Seconds of a whole reranking, from texts to the run file."""
    rows = read("reranking-h200.csv")
    steps = ("before the first batch", "scoring until the last score", "writing the run")
    lines = []
    for workload, name in {"nfcorpus-whole": "NFCorpus", "scifact-whole": "SciFact"}.items():
        criteria = {"benchmark": f"endtoend {workload}", "model": "Mamba-2-370M"}
        whole = find(rows, {**criteria, "implementation": "ssmrank, text to run file"})
        assert whole is not None
        parts = [number(rows, "seconds", **criteria, implementation=f"ssmrank, {step}") for step in steps]
        busy = f"{float(whole['gpu_busy']):.0%}"
        lines.append([name, shown(float(whole["seconds"]), 2), *(shown(part, 2) for part in parts), busy])
    return markdown(["seconds", "whole", *steps, "GPU busy"], lines)


def table5_h200() -> str:
    """Table 5 as `ssmrank table5` makes it."""
    return speed_table(read_timings(RESULTS / "table5-h200.csv", "table5")).to_markdown().strip()


def rerankers(*names: str, sections: Sequence[str], tests: Sequence[str] = tuple(MINI_TESTS.values())) -> str:
    """A table of the pipeline by sections: means, deviations over seeds and arrows, the best of a section bold."""
    rows: dict[tuple[str, str], Row] = {}
    for name in names:
        for row in read(f"{name}.csv"):
            if row["section"] in sections:
                rows.setdefault((row["section"], row["model"]), {}).update(row)
    return _by_section(list(rows.values()), sections, tests)


def groups_curve() -> str:
    """Rerankers that learned from more and more groups, by sections."""
    rows = [row for row in read("table14.csv") if row["section"] in CURVE]
    for row in rows:
        row["model"] = ", ".join(filter(None, (row["model"], row["length"])))
    return _by_section(rows, CURVE, tuple(MINI_TESTS.values()))


def _by_section(rows: Sequence[Row], sections: Sequence[str], tests: Sequence[str]) -> str:
    columns = [test for test in tests if any(row.get(test) for row in rows)]
    lines = []
    for section in sections:
        inside = [row for row in rows if row["section"] == section]
        lines.append([f"*{section}*", *[""] * len(columns)])
        lines += [[row["model"], *(_mini(row, column, inside) for column in columns)] for row in inside]
    return markdown(["", *columns], lines)


def _mini(row: Row, column: str, section: list[Row]) -> str:
    """A cell: mean, deviation and arrow; bold if it is the best of several rows."""
    mean, spread = row.get(column, ""), row.get(f"{column} (standard deviation)", "")
    values = [float(other[column]) for other in section if other.get(column)]
    bold = mean and len(values) > 1 and float(mean) == max(values)
    text = (f"**{mean}**" if bold else mean) + (f" ± {spread}" if spread else "")
    return text + row.get(f"{column} (significance)", "")


def second_size_speed() -> str:
    """Pairs per second of the two models of the second size on one GPU."""
    lines = []
    for label, name in {"Mamba-2-small": "mamba2", "Llama-small": "llama"}.items():
        known = json.loads((RESULTS / f"speed-{name}-small-h200.json").read_text(encoding="utf-8"))
        lines.append([label, *(shown(known[way]["pairs_per_second"]) for way in ("reuse", "whole"))])
    return markdown(["pairs/s", "with reuse", "without"], lines)


def minis_pretraining() -> str:
    """What each model's `pretraining.json` says about its pretraining."""
    lines = []
    for label, file in MINIS.items():
        known = json.loads((ROOT / file).read_text(encoding="utf-8"))
        _, tokens, loss = known["curve"]["held_out"][-1]
        size = known["parameters"]["non_embedding_parameters"] / 1e6
        numbers = [f"{known['settings']['vocabulary']:,}", f"{size:.1f}M", f"{tokens / 1e6:.0f}M"]
        numbers += [f"{known['passes']:.1f}", f"{known['learning_rate']:g}", f"{loss:.2f}"]
        lines.append([label, *numbers, known["objective"]])
    heads = ["", "vocabulary", "parameters", "tokens", "passes", "learning rate", "held-out loss", "objective"]
    return markdown(heads, lines)


def grid_hours() -> str:
    """Hours of the paper's grid on some number of GPUs."""
    lines = [[row["gpus"], row["hours"], f"{float(row['busy']):.0%}"] for row in read("grid-hours.csv")]
    return markdown(["GPUs", "hours", "busy"], lines)


def grid_longest() -> str:
    """The longest job of the paper's grid, in a sentence."""
    row = read("grid-hours.csv")[0]
    training, model = row["longest_job"].removeprefix("train ").split(" ", 1)
    hours = f"{row['longest_hours']} of {row['gpu_hours']} GPU hours"
    return f"The longest job is the training `{training}` of {model}: {hours}."


def document_states_cpu() -> str:
    """Pairs per second of a CPU's core with kept states of documents, and how far scores are from those without."""
    rows = read("document-states-cpu.csv")
    settings = [("states in memory", share) for share in ("0%", "50%", "95%", "100%")]
    settings += [("states on disk", "100%"), ("bf16 states on disk", "100%")]
    lines = []
    for model, precision in dict.fromkeys((row["model"], row["precision"]) for row in rows):
        own = {"model": model, "precision": precision}
        plain = number(rows, "pairs_per_cpu_second", setting="no states", **own)
        rates = [
            number(rows, "pairs_per_cpu_second", setting=setting, repeated=share, **own) for setting, share in settings
        ]
        lines.append([f"{model}, {precision}", *(shown(rate) for rate in (plain, *rates)), ratio(rates[2], plain, 1)])
    heads = ["model", "no states", "0%", "50%", "95%", "100%", "from disk", "from disk, bf16", "95% / no states"]
    return markdown(heads, lines)


def document_states_sizes() -> str:
    """Bytes of a document's state, and differences of scores."""
    rows = read("document-states-cpu.csv")
    lines = []
    for model, precision in dict.fromkeys((row["model"], row["precision"]) for row in rows):
        own = {"model": model, "precision": precision, "repeated": "100%"}
        exact = find(rows, {"setting": "states in memory", **own})
        rounded = find(rows, {"setting": "bf16 states on disk", **own})
        size = number(rows, "state_bytes", setting="states in memory", **own)
        if exact and rounded:
            differences = exact["difference"], rounded["difference"], exact["spread"]
            lines.append([f"{model}, {precision}", shown(size, 2, 1e-6), *differences])
    heads = ["model", "MB in memory", "largest difference", "with bf16 states", "standard deviation of the scores"]
    return markdown(heads, lines)


def serving_cpu() -> str:
    """Servers: pairs per second and latencies under half of that load."""
    if not (RESULTS / "serving-cpu.csv").exists():
        return "*Not measured yet.*"
    lines = []
    for row in read("serving-cpu.csv"):
        p50, p99 = float(row["p50_ms"]), float(row["p99_ms"])
        kept = f"{float(row['repeated']):.0%}"
        lines.append(
            [
                f"{row['workload']}: {row['model']}, {row['server']}",
                *(kept, shown(float(row["pairs_per_second"]), 1), shown(p50), shown(p99), ratio(p99, p50)),
                *(row["requests"], shown(float(row["memory_mib"]), 1, 1 / 1024)),
            ]
        )
    heads = ["workload: model, server", "repeated", "pairs/s", "p50 ms", "p99 ms", "p99 / p50", "requests", "GiB"]
    return markdown(heads, lines)


def serving_soak() -> str:
    """What became of the soak's requests."""
    if not (RESULTS / "serving-soak.csv").exists():
        return "*Not measured yet.*"
    heads = {
        "requests": "requests",
        "malformed": "malformed",
        "cut": "cut off",
        "slow": "slow",
        "wrong": "lost or wrong",
        "largest_error": "largest error of a score",
        "memory_early_mib": "MiB after a quarter",
        "memory_late_mib": "MiB at the end",
    }
    rows = read("serving-soak.csv")
    return markdown(list(heads.values()), [[row[column] for column in heads] for row in rows])


def model_and_order(row: Row) -> str:
    """A model and the order in which it reads, or a first stage."""
    return f"{row['model']}, {row['training']}" if row["training"] else row["model"]


def reading_order() -> str:
    """Quality, tokens and what reuse saves of each model in each order of reading."""
    if not (RESULTS / "reading-order.csv").exists():
        return "*Not measured yet.*"
    lines = []
    for row in read("reading-order.csv"):
        quality = f"{float(row['quality']):.1f}"
        shares = [f"{float(row[key]):.0f}%" if row[key] else "" for key in ("saved", "shortened")]
        lines.append(
            [model_and_order(row), quality, *(shown(number_of(row[key])) for key in ("tokens", "computed")), *shares]
        )
    return markdown(["", "nDCG@10", "tokens a pair", "computed with reuse", "saved", "documents cut"], lines)


def reading_order_pretrained() -> str:
    """The five decoders in each order of reading: quality in two collections, and tokens of SciFact's pairs."""
    tags = {(row["model"], row["training"]): row["quality"] for row in read("reading-order-semanlink.csv")}
    lines = []
    for row in read("reading-order-scifact.csv"):
        known = (row["quality"], tags.get((row["model"], row["training"]), ""))
        qualities = [f"{float(quality):.1f}" if quality else "" for quality in known]
        saved = f"{float(row['saved']):.0f}%" if row["saved"] else ""
        lines.append(
            [model_and_order(row), *qualities, *(shown(number_of(row[key])) for key in ("tokens", "computed")), saved]
        )
    heads = ["nDCG@10", "SciFact", "Semanlink", "tokens a pair, SciFact", "computed with reuse", "saved"]
    return markdown(heads, lines)


def idle_stub() -> str:
    """What keeps a stand-in for a GPU waiting, before and after its reranking was rearranged."""
    titles = {"nfcorpus": "NFCorpus", "scifact": "SciFact"}
    heads = ["", "opening, s", "to the first batch, s", "writing, s", "all, s", "busy of all", "busy after opening"]
    lines = []
    for row in read("idle-stub.csv"):
        opening, scored, busy = (float(row[name]) for name in ("opening", "all", "busy"))
        seconds = [opening, float(row["before"]), float(row["writing"]), opening + scored]
        shares = [busy / (opening + scored), busy / scored]
        values = [*(f"{value:.2f}" for value in seconds), *(f"{share:.1%}" for share in shares)]
        lines.append([f"{titles[row['collection']]}, {row['side']}", *values])
    return markdown(heads, lines)


def number_of(text: str) -> float | None:
    """The number in a cell of a file; None if the cell is empty."""
    return float(text) if text else None


TABLES: dict[str, Callable[[], str]] = {
    "grid-hours": grid_hours,
    "grid-longest": grid_longest,
    "end-to-end-h200": end_to_end_h200,
    "idle-stub": idle_stub,
    "kernels-cpu": kernels_cpu,
    "lengths-cpu": lengths_cpu,
    "llama-cpu": llama_cpu,
    "document-states-cpu": document_states_cpu,
    "document-states-sizes": document_states_sizes,
    "loading-cpu": loading_cpu,
    "mamba2-fused-h200": mamba2_fused_h200,
    "minis-curve": groups_curve,
    "minis-hybrid": lambda: rerankers("table12-hybrid", sections=(*ZERO_SHOT, TAGS, f"{TAGS}, fused with BM25")),
    "minis-pretraining": minis_pretraining,
    "minis-second-size": lambda: rerankers("table13", sections=ZERO_SHOT),
    "minis-second-size-speed": second_size_speed,
    "same-scores-noise": lambda: same_scores_noise("same-scores-cpu.csv"),
    "same-scores-noise-h200": lambda: same_scores_noise("same-scores-h200.csv"),
    "same-scores-price": same_scores_price,
    "minis-tags": lambda: rerankers("table12", sections=("First stage", TAGS, f"{TAGS}, fused with BM25")),
    "minis-zero-shot": lambda: rerankers("table12", "table12-zero-shot", sections=ZERO_SHOT),
    "own-collection": lambda: rerankers("own-collection", sections=OWN_COLLECTION, tests=("nDCG@10", "MAP")),
    "reading-order": reading_order,
    "reading-order-pretrained": reading_order_pretrained,
    "retrievers": lambda: rerankers("table15", sections=RETRIEVERS, tests=RETRIEVAL_TESTS),
    "retrievers-reranked": lambda: rerankers(
        "table15-reranked", sections=("First stage", "Reranked"), tests=RETRIEVAL_TESTS
    ),
    "reranking-1536-h200": lambda: reranking_h200("1536"),
    "reranking-512-h200": lambda: reranking_h200("512"),
    "reuse-cpu": reuse_cpu,
    "serving-cpu": serving_cpu,
    "serving-soak": serving_soak,
    "sharing-h200": sharing_h200,
    "table5-h200": table5_h200,
    "training-forward-cpu": lambda: training_cpu("training-forward-cpu.csv", BASE_MODELS, ("fp32", "bf16")),
    "training-h200": training_h200,
    "training-mixed-cpu": training_mixed_cpu,
    "training-mixed-h200": training_mixed_h200,
    "training-small-cpu": lambda: training_cpu("training-small-cpu.csv", CPU_MODELS, ("fp32",)),
}

MARKED = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end of table: \2 -->)", re.S)


def pages() -> Iterator[Path]:
    """The pages that may hold tables."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))
    yield ROOT / "src/ssmrank/kernels/README.md"


def filled(text: str) -> str:
    """The text of a page with its tables made from the present files."""
    return MARKED.sub(lambda marks: f"{marks[1]}\n{TABLES[marks[2]]()}\n\n{marks[3]}", text)


def main() -> None:
    """Rewrites the pages."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
