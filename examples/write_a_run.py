"""Reranks the documents of a TREC run and writes a run file: `python examples/write_a_run.py reranked.trec`.

For collections of more than a few thousand pairs use `ssmrank rerank`, which computes shared documents once.
"""

import json
import sys
from pathlib import Path

from ssmrank.io.trec import read_run, write_run
from ssmrank.models import load_reranker

EXAMPLES = Path(__file__).resolve().parent


def texts(name: str) -> dict[str, str]:
    lines = (EXAMPLES / "data" / name).read_text(encoding="utf-8").splitlines()
    return {record["id"]: record["text"] for record in map(json.loads, lines)}


def main() -> None:
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "reranked.trec")
    queries, documents = texts("queries.jsonl"), texts("documents.jsonl")
    reranker = load_reranker(EXAMPLES.parent / "models" / "minis" / "mamba2")
    run = {}
    for query, ranking in read_run(EXAMPLES / "data" / "first-stage.trec").items():
        ids = [document for document, _ in ranking]
        run[query] = list(zip(ids, reranker.score(queries[query], [documents[id] for id in ids]), strict=True))
    write_run(output, run, tag="mamba2-mini")  # orders each query's documents by score
    print(f"{output}: {len(run)} queries")


if __name__ == "__main__":
    main()
