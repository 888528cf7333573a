"""Workloads of reranking benchmarks: real lengths and real sharing of documents among queries, without the texts.

    python benchmarks/workloads.py --collection data/collections/nfcorpus --split test --run dense.trec \\
        --tokenizer FOLDER --documents 12 --note "..." --output benchmarks/workloads/nfcorpus.json

A workload has the number of tokens of each document and each query, and which queries ask for which documents: for all
documents of a run or for a seeded sample. Times depend on nothing else, because weights are random. Token ids are
random too; all queries begin with the same tokens, as they do with " query:".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from shapes import Shape

from ssmrank.io.pairs import Pair, Pairs
from ssmrank.models.templates import Template
from ssmrank.reranking.sequences import PairSequences

FOLDER = Path(__file__).parent / "workloads"
_ALIKE = 2
"""Number of tokens with which all queries begin (" query", ":")."""


@dataclass(frozen=True)
class Workload:
    """documents, queries: tokens of each document and query side; asked: the queries that ask for each document.

    A file may have `counts` instead, the number of queries that ask for each document; they are then drawn with seed 0.
    """

    name: str
    note: str
    documents: list[int]
    queries: list[int]
    asked: list[list[int]]

    @property
    def pairs(self) -> list[Pair]:
        return [Pair(f"q{query}", f"d{document}") for document, asked in enumerate(self.asked) for query in asked]

    def sequences(self, order: str, vocabulary: int, max_length: int, pairs: Sequence[Pair] | None = None):
        """The pairs' sequences of random tokens, in the order `document-first` or `query-first`."""
        template = _RandomTemplate.like(order, vocabulary, self.queries)
        generator = np.random.default_rng(0)
        documents = {
            f"d{number}": generator.integers(10, vocabulary, min(length, max_length)).astype(np.int32)
            for number, length in enumerate(self.documents)
        }
        queries = {f"q{number}": f"q{number}" for number in range(len(self.queries))}
        return PairSequences(template, max_length, Pairs.of(pairs or self.pairs), queries, documents)


class _RandomTemplate(Template):
    """The decoders' or encoders' template, with random tokens for each query id."""

    lengths: Sequence[int]
    vocabulary: int

    @classmethod
    def like(cls, order: str, vocabulary: int, lengths: Sequence[int]) -> _RandomTemplate:
        first = order == "document-first"
        template = cls("D" if first else "E", order, None, () if first else (1,), (2,) if first else (), (3,))  # type: ignore[arg-type]
        object.__setattr__(template, "lengths", lengths)
        object.__setattr__(template, "vocabulary", vocabulary)
        return template

    def tokenize_queries(self, texts: Sequence[str]) -> list[np.ndarray]:
        sides = []
        for text in texts:
            number = int(text[1:])
            own = np.random.default_rng(number).integers(10, self.vocabulary, self.lengths[number]).astype(np.int32)
            own[:_ALIKE] = (4, 5)[: len(own)]
            sides.append(own)
        return sides


def read_workload(name: str) -> Workload:
    """A workload of `benchmarks/workloads` by its name, or of another file by its path (`.json`)."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    values = json.loads(path.read_text())
    if "counts" in values:
        generator, queries = np.random.default_rng(0), len(values["queries"])
        counts = values.pop("counts")
        values["asked"] = [np.sort(generator.choice(queries, count, replace=False)).tolist() for count in counts]
    return Workload(name=path.stem, **values)


def equal_sequences(shape: Shape, count: int, length: int) -> PairSequences:
    """`count` pairs of this length, each with another document; the query has 16 tokens."""
    workload = Workload("equal", "", [length - 17] * count, [16], [[0]] * count)
    order = "query-first" if shape.pools_first else "document-first"
    return workload.sequences(order, shape.config["vocab_size"], length)


def fewer_documents(workload: Workload, count: int) -> Workload:
    """The workload of `count` of its documents, evenly over their lengths, each with all of its queries."""
    if count >= len(workload.documents):
        return workload
    order = np.argsort(workload.documents, kind="stable")
    kept = order[((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)].tolist()
    documents, asked = ([values[place] for place in kept] for values in (workload.documents, workload.asked))
    return replace(workload, documents=documents, asked=asked)


def sample(pairs: Sequence[Pair], lengths: Sequence[int], count: int, together: int) -> list[Pair]:
    """`count` of the pairs, evenly over their lengths, so that the mean length stays the same.

    Groups of `together` are neighbours in length, so that batches of that size are padded as little as in the whole.
    """
    if count >= len(pairs):
        return list(pairs)
    order = np.argsort(np.asarray(lengths), kind="stable")
    groups = max(1, count // together)
    starts = [int((place + 0.5) * len(pairs) / groups) - together // 2 for place in range(groups)]
    return [pairs[order[start + step]] for start in starts for step in range(together)]


def main() -> None:
    from transformers import AutoTokenizer

    from ssmrank.io.texts import TextStore, read_queries
    from ssmrank.io.trec import read_run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True, help="folder of a decoder's tokenizer")
    parser.add_argument("--documents", type=int, help="how many, drawn by seed 0 (default: all of the run)")
    parser.add_argument("--longest", type=int, default=2048, help="tokens at which documents are cut")
    parser.add_argument("--counts", action="store_true", help="only how many queries ask each document: a small file")
    parser.add_argument("--note", required=True, help="where it is from")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    template = Template.of(AutoTokenizer.from_pretrained(arguments.tokenizer), "D")
    run = read_run(arguments.run)
    ids = sorted({document for ranking in run.values() for document, _ in ranking})
    if arguments.documents and arguments.documents < len(ids):
        ids = sorted(np.random.default_rng(0).choice(ids, arguments.documents, replace=False).tolist())
    texts = TextStore(arguments.collection / "documents.jsonl")
    queries = read_queries(arguments.collection / "splits" / arguments.split / "queries.jsonl")
    asked: dict[str, list[int]] = {id: [] for id in ids}
    for number, (_, ranking) in enumerate(run.items()):
        for document, _ in ranking:
            if document in asked:
                asked[document].append(number)
    sides = template.tokenize_documents([texts[id] for id in ids])
    workload = {
        "note": arguments.note,
        "documents": [min(len(side), arguments.longest) for side in sides],
        "queries": [len(side) for side in template.tokenize_queries([queries[query] for query in run])],
        **({"counts": list(map(len, asked.values()))} if arguments.counts else {"asked": list(asked.values())}),
    }
    arguments.output.write_text(json.dumps(workload, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
