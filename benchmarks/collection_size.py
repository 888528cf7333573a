"""Memory and time of a large collection: writing it in canonical form, opening it, reading texts by id, indexing it.

    python benchmarks/collection_size.py --passages 1000000 --index

Passages are random words, about as long as MS MARCO's (56 words). Each step runs in its own process. The peak of
resident memory is the system's count and includes memory-mapped pages; Java is counted separately. The last column
extrapolates the seconds linearly to MS MARCO's 8,841,823 passages.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MSMARCO = 8_841_823

STEPS = {
    "write": """
from ssmrank.collections.canonical import write_collection
from ssmrank.collections.folder import FolderSource
from ssmrank.config.collections import FolderCollection
write_collection(FolderSource(FolderCollection(kind="folder", path=FOLDER + "/source"), ["text"]), ["test"], OUTPUT)
""",
    "open": """
from ssmrank.io.texts import TextStore
TextStore(OUTPUT + "/documents.jsonl")["d0"]
""",
    "read 200,000 by id": """
import random
from ssmrank.io.texts import TextStore
store = TextStore(OUTPUT + "/documents.jsonl")
random.seed(1)
for number in random.choices(range(len(store)), k=200_000):
    store[f"d{number}"]
""",
    "index": """
from pathlib import Path
from ssmrank.retrieval.index import build_index
build_index(Path(OUTPUT), Path(FOLDER + "/index"), threads=2)
""",
}

MEASURED = """
import json, resource, sys
print(json.dumps([resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]))
"""


def make_source(folder: Path, passages: int) -> None:
    """Writes a folder in BEIR's layout: passages of Poisson(56) words from 200,000, by a power law; 1,000 queries."""
    random = np.random.default_rng(42)
    words = np.array([f"word{number:x}" for number in range(200_000)])
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as stream:
        for first in range(0, passages, 10_000):
            lengths = random.poisson(56, size=min(10_000, passages - first)).clip(1)
            drawn = words[(random.zipf(1.2, size=lengths.sum()) - 1) % len(words)]
            for number, text in enumerate(np.split(drawn, np.cumsum(lengths)[:-1]), start=first):
                stream.write(json.dumps({"_id": f"d{number}", "text": " ".join(text)}) + "\n")
    queries = range(min(1000, passages))
    (folder / "queries.jsonl").write_text("".join(f'{{"_id": "q{q}", "text": "word{q:x} word1"}}\n' for q in queries))
    (folder / "qrels/test.tsv").write_text("".join(f"q{q}\td{q}\t1\n" for q in queries))


def measure(step: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, and peak MiB of the process and of its child processes."""
    names = f"FOLDER = {str(folder)!r}\nOUTPUT = {str(folder / 'collection')!r}\n"
    started = time.perf_counter()
    finished = subprocess.run([sys.executable, "-c", names + STEPS[step] + MEASURED], stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise SystemExit(f"{step} failed")
    own, children = json.loads(finished.stdout.splitlines()[-1])
    return time.perf_counter() - started, own / 1024, children / 1024


def main() -> None:
    """Prints a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--index", action="store_true", help="also build the Lucene index")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: the system's temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="ssmrank-collections-") as name:
        folder = Path(name)
        make_source(folder / "source", arguments.passages)
        size = (folder / "source/corpus.jsonl").stat().st_size / 2**20
        print(f"{arguments.passages:,} passages, {size:,.0f} MiB; made in {_peak():.0f} MiB")
        print(f"{'step':20} {'seconds':>9} {'peak MiB':>9} {'Java MiB':>9} {'MS MARCO, s':>12}")
        for step in STEPS:
            if step == "index" and not arguments.index:
                continue
            seconds, own, children = measure(step, folder)
            java = f"{children:9,.0f}" if step == "index" else f"{'':9}"
            whole = f"{seconds * MSMARCO / arguments.passages:12,.0f}" if step in ("write", "index") else ""
            print(f"{step:20} {seconds:9.1f} {own:9,.0f} {java} {whole}", flush=True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
