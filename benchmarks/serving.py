"""What `ssmrank serve` does on this machine's CPU, beside sentence-transformers' CrossEncoder in the same server.

    python benchmarks/serving.py                     # ten minutes: benchmarks/results/serving-cpu.csv
    python benchmarks/serving.py --quick             # two minutes, to see whether it works
    python benchmarks/serving.py --soak              # 10,000 requests: benchmarks/results/serving-soak.csv

Servers run one after the other on loopback, in fp32. Texts have the lengths of TREC DL 2019's, NFCorpus' and MS MARCO's
documents (`benchmarks/workloads`), and a document that is repeated is drawn as often as the collection's queries ask
for it. Words are drawn, since scores do not matter here.

For each server and each share of repeated documents:

- pairs a second, with several requests open all the time, each sent as soon as one is answered;
- p50 and p99 of the latency under half of that load, sent at the times of a Poisson process whether or not earlier
  requests were answered. A latency counts from the time at which the request was to be sent.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from measure import device_name
from serving_load import Answer, Client, Texts, at_once, body, open_loop, percentile, words_of
from serving_soak import Pool, Report, Soak, resident

from ssmrank.io.atomic import atomic_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
SMALL_CACHE = "100MB"
"""Memory for states where they are on disk: too little for the documents that are repeated."""
SHORT = ("dl19", "nfcorpus-whole")
"""Workloads that all models read; documents are cut to what the minis were trained on."""
LONG = ("msmarco-documents",)
"""Longer documents, for a copy of Mamba-2-mini that reads 512 tokens, as the paper's passages have."""
COLLECTIONS = {
    "dl19": "TREC DL 2019, 192 tokens",
    "nfcorpus-whole": "NFCorpus, 192 tokens",
    "msmarco-documents": "MS MARCO documents, 512 tokens",
}


@dataclass(frozen=True)
class Size:
    """How much is measured.

    documents: of a request; known: documents that are repeated; in_flight: requests open at once while pairs a second
    are counted, for `seconds`; load: share of those pairs a second at which latencies are taken, for `open_seconds`.
    """

    workloads: Sequence[str] = (*SHORT, *LONG)
    repeated: Sequence[float] = (0.0, 0.5, 0.95)
    documents: int = 10
    known: int = 200
    in_flight: int = 8
    seconds: float = 4.0
    open_seconds: float = 9.0
    load: float = 0.5


FULL = Size()
QUICK = Size(workloads=("dl19",), repeated=(0.0, 0.95), seconds=2.0, open_seconds=3.0)
TINY = Size(workloads=("dl19",), repeated=(0.95,), documents=3, known=6, in_flight=2, seconds=0.2, open_seconds=0.2)


@dataclass
class Row:
    """A row of the CSV file. requests: those whose latency was taken; refused: of them, those without a ranking."""

    workload: str
    model: str
    server: str
    repeated: float
    documents: int
    pairs_per_second: float = 0.0
    load: float = 0.0
    requests: int = 0
    refused: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    late_ms: float = 0.0
    """99th percentile of how late the client itself sent."""
    cached: float = 0.0
    """Share of the documents whose state was found, as the server says."""
    memory_mib: float = 0.0
    precision: str = "fp32"
    device: str = ""


@dataclass(frozen=True)
class Contender:
    """A server. command: starts it, given the port; repeated: shares of repeated documents, None: all.

    A server that keeps no documents is measured at one share, because they make no difference to it. prepare: gets the
    texts that will be repeated, before the start.
    """

    model: str
    server: str
    command: Callable[[int], list[str]]
    repeated: Sequence[float] | None = None
    workloads: Sequence[str] = SHORT
    prepare: Callable[[Sequence[str]], None] = field(default=lambda texts: None)


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def started(command: Sequence[str], port: int, log: Path) -> Iterator[subprocess.Popen]:
    """A server that answers; it ends with the block."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        end = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{' '.join(command)}: did not start\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def ours(model: Path, *options: str) -> Callable[[int], list[str]]:
    """The command of `ssmrank serve` in fp32."""
    command = [sys.executable, "-m", "ssmrank", "serve", "--model", str(model), "--precision", "fp32", *options]
    return lambda port: [*command, "--port", str(port)]


def theirs(checkpoint: Path, folder: Path) -> Callable[[int], list[str]]:
    """The command of CrossEncoder in the same server."""
    command = [sys.executable, str(ROOT / "benchmarks/serving_cross_encoder.py")]
    return lambda port: [*command, "--checkpoint", str(checkpoint), "--folder", str(folder), "--port", str(port)]


def exported(model: Path, folder: Path) -> Path:
    """The model as `ssmrank export` writes it for sentence-transformers."""
    command = [sys.executable, "-m", "ssmrank", "export", str(model), str(folder), "--format", "sentence-transformers"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def measured(contender: Contender, size: Size, folder: Path, seed: int) -> Iterator[Row]:
    """The rows of one server: it is started once, and answers all workloads."""
    words = words_of(ROOT / "models/minis/mamba2/tokenizer.json")
    workloads = [workload for workload in contender.workloads if workload in size.workloads]
    if not workloads:
        return
    texts = {workload: Texts(workload, words, size.known, seed) for workload in workloads}
    contender.prepare([document for one in texts.values() for document in one.known])
    port = free_port()
    with started(contender.command(port), port, folder / "log") as process:
        for workload in workloads:
            for repeated in size.repeated if contender.repeated is None else contender.repeated:
                row = Row(COLLECTIONS[workload], contender.model, contender.server, repeated, size.documents)
                asyncio.run(_measure(row, texts[workload], port, size, seed))
                row.memory_mib = round(resident(process.pid), 0)
                print("  " + "  ".join(str(value) for value in asdict(row).values()), flush=True)
                yield row


async def _measure(row: Row, texts: Texts, port: int, size: Size, seed: int) -> None:
    client = Client("127.0.0.1", port)

    def requests(count: int) -> list[bytes]:
        return [texts.request(size.documents, row.repeated) for _ in range(count)]

    if row.repeated:  # what is repeated has been asked for before
        known = [texts.known[start : start + size.documents] for start in range(0, len(texts.known), size.documents)]
        await at_once(client, iter([body(texts.query(), some) for some in known]), size.in_flight, 600)
    # The first requests say how many the next measurement needs: texts are drawn before, not while the server works.
    _, seconds = await at_once(client, iter(requests(2 * size.in_flight)), size.in_flight, 600)
    expected = 2 * size.in_flight / seconds
    ready = requests(max(size.in_flight, int(3 * expected * size.seconds)))
    answers, seconds = await at_once(client, iter(ready), size.in_flight, size.seconds)
    rate = len(ranked(answers)) / seconds
    row.pairs_per_second = round(rate * size.documents, 1)
    row.load = size.load
    count = max(5, int(size.load * rate * size.open_seconds))
    answers = await open_loop(client, requests(count), size.load * rate, seed)
    client.close()
    _fill(row, answers)


def ranked(answers: Sequence[Answer]) -> list[Answer]:
    """The answers that are rankings."""
    return [answer for answer in answers if answer.status == 200]


def _fill(row: Row, answers: Sequence[Answer]) -> None:
    right = ranked(answers)
    row.requests, row.refused = len(answers), len(answers) - len(right)
    row.p50_ms, row.p99_ms = (round(1000 * percentile([one.latency for one in answers], q), 1) for q in (0.5, 0.99))
    row.late_ms = round(1000 * percentile([one.late for one in answers], 0.99), 1)
    found = [result["cached"] for answer in right for result in json.loads(answer.content)["results"]]
    row.cached = round(sum(found) / max(1, len(found)), 3)


def write_states(model: Path, texts: Sequence[str], collection: Path, states: Path) -> None:
    """Writes the texts as a collection, and their states with `ssmrank states`."""
    collection.mkdir()
    with (collection / "documents.jsonl").open("w") as stream:
        for number, text in enumerate(texts):
            stream.write(json.dumps({"id": str(number), "text": text}) + "\n")
    command = [sys.executable, "-m", "ssmrank", "states", "--collection", str(collection), "--model", str(model)]
    subprocess.run([*command, "--precision", "fp32", "--state-folder", str(states)], check=True, capture_output=True)


def reading(model: Path, max_length: int, folder: Path) -> Path:
    """A copy of a checkpoint that reads more tokens. A Mamba has no positions, so that changes no weights."""
    shutil.copytree(model, folder)
    settings = json.loads((folder / "reranker.json").read_text())
    (folder / "reranker.json").write_text(json.dumps(settings | {"max_length": max_length}))
    return folder


def contenders(folder: Path, size: Size) -> list[Contender]:
    """The servers: with the cache, with states on disk, without either, and CrossEncoder."""
    from serving_cross_encoder import minilm_shape

    name = "Mamba-2-mini"
    mini, bert = ROOT / "models/minis/mamba2", ROOT / "models/minis/bert"
    found = []
    for workloads, model in ((SHORT, mini), (LONG, reading(mini, 512, folder / "long"))):
        states = folder / f"states-{workloads[0]}"
        on_disk = ("--state-cache", SMALL_CACHE, "--state-folder", str(states))
        prepare = partial(write_states, model, collection=folder / f"collection-{workloads[0]}", states=states)
        found += [
            Contender(name, "ssmrank, cache", ours(model), None, workloads),
            Contender(name, "ssmrank, states on disk", ours(model, *on_disk), size.repeated[-1:], workloads, prepare),
            Contender(name, "ssmrank, no cache", ours(model, "--state-cache", "0"), (0.0,), workloads),
        ]
    shape = folder / "minilm-shape"
    minilm_shape(shape, bert, 192)
    others = SHORT[:1]
    return [
        *found,
        Contender(name, "CrossEncoder", theirs(mini, exported(mini, folder / "mamba2")), (0.0,), others),
        Contender("BERT-mini", "ssmrank", ours(bert), (0.0,), others),
        Contender("BERT-mini", "CrossEncoder", theirs(bert, exported(bert, folder / "bert")), (0.0,), others),
        Contender("MiniLM-L6's shape", "CrossEncoder", theirs(shape, shape), (0.0,), others),
    ]


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Writes rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def soak(
    model: Path,
    requests: int,
    in_flight: int,
    folder: Path,
    documents: int = 300,
    queries: int = 40,
    share: float = 0.01,
    options: Sequence[str] = (),
) -> Report:
    """Runs the soak against a server in fp32, with the scores that `Reranker` gives.

    share: of the requests that are malformed, of those that are cut, and of those that are slow; options: the server's.
    """
    from ssmrank import Reranker

    texts = Texts("dl19", words_of(model / "tokenizer.json"), documents, seed=0)
    asked = {str(number): texts.query() for number in range(queries)}
    by_id = {str(number): text for number, text in enumerate(texts.known)}
    reranker = Reranker.from_pretrained(model, device="cpu", precision="fp32")
    run = reranker.rank_many(asked, {query: list(by_id) for query in asked}, by_id)
    scores = [[dict(run[query])[document] for document in by_id] for query in asked]
    pool = Pool(list(asked.values()), list(by_id.values()), scores)
    port = free_port()
    with started(ours(model, *options)(port), port, folder / "log") as process:
        return asyncio.run(Soak("127.0.0.1", port, process.pid, pool).run(requests, in_flight, share=share))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer servers and shares, shorter measurements")
    parser.add_argument("--soak", action="store_true", help="10,000 requests, of which 3% are malformed, cut or slow")
    parser.add_argument("--requests", type=int, default=10_000, help="of the soak")
    parser.add_argument("--output", type=Path, help="CSV file (default: one of benchmarks/results)")
    parser.add_argument("--only", default="", help="servers whose name has this text")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.soak:
            report = soak(ROOT / "models/minis/mamba2", arguments.requests, 16, folder)
            print(json.dumps(report.row(), indent=1), *report.wrong[:20], sep="\n")
            write_rows(arguments.output or RESULTS / "serving-soak.csv", [report.row() | {"device": cpu()}])
            raise SystemExit(1 if report.wrong else 0)
        size = QUICK if arguments.quick else FULL
        rows = [
            {**asdict(row), "device": cpu()}
            for contender in contenders(folder, size)
            if arguments.only in contender.server
            for row in measured(contender, size, folder, arguments.seed)
        ]
        write_rows(arguments.output or RESULTS / ("serving-quick.csv" if arguments.quick else "serving-cpu.csv"), rows)


def cpu() -> str:
    """The processor's name and the number of its cores."""
    return device_name(torch.device("cpu"))


if __name__ == "__main__":
    main()
