"""How long documents and queries are, in tokens, before any of them is downloaded.

`lengths.csv` has the mean number of words of published collections, and for some the file of
`benchmarks/workloads` that has the length of each document.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ssmrank.config.models import SIDES, ReadingOrder
from ssmrank.io.plain import read_json

TOKENS_PER_WORD = 1.35
"""Of English: 1.33 to 1.37 on TREC DL 2019, NFCorpus and SciFact with GPT-NeoX's tokenizer (benchmarks/workloads)."""

DOCUMENT_TEMPLATE, QUERY_TEMPLATE = 3, 4
"""Tokens of `document: ;`, and of ` query: ;` with [EOS]. Encoders have as many."""

BYTES_PER_WORD = 7.6
"""Of documents.jsonl: 405 MiB for 1,000,000 passages of 56 words (benchmarks/results/collection-size.txt)."""


@dataclass(frozen=True)
class Lengths:
    """Mean words of a collection's documents and queries; lengths: tokens of documents, if each one's is known."""

    document_words: float
    query_words: float
    lengths: tuple[int, ...] = ()

    def query(self) -> float:
        """Tokens of a query and what is around it."""
        return self.query_words * TOKENS_PER_WORD + QUERY_TEMPLATE

    def document(self, max_length: int, order: ReadingOrder = "document-first") -> float:
        """Tokens of a document and what is around it, cut so that queries have room in `max_length`; of all copies."""
        copies, queries = SIDES[order].count("d"), SIDES[order].count("q")
        room = max(max_length - queries * self.query(), max_length / 2) / copies
        if self.lengths:
            return copies * sum(min(length, room) for length in self.lengths) / len(self.lengths)
        return copies * min(self.document_words * TOKENS_PER_WORD + DOCUMENT_TEMPLATE, room)


def lengths_of(collection: str, folder: Path) -> Lengths | None:
    """The lengths of a collection by its name in params.yaml; None if they are not known. `folder` has workloads."""
    return _read(folder).get(collection)


@cache
def _read(folder: Path) -> dict[str, Lengths]:
    found = {}
    with open(Path(__file__).with_name("lengths.csv"), encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            workload = folder / f"{row['workload']}.json"
            known = row["workload"] and workload.is_file()
            lengths = read_json(workload, "a workload is a JSON object")["documents"] if known else []
            found[row["collection"]] = Lengths(
                float(row["document_words"]), float(row["query_words"]), tuple(map(int, lengths))
            )
    return found
