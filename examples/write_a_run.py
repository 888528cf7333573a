"""Reranks the documents of a TREC run and writes a run file: `python examples/write_a_run.py reranked.trec`."""

import json
import sys
from pathlib import Path

from ssmrank import Reranker
from ssmrank.io.trec import read_run, write_run

EXAMPLES = Path(__file__).resolve().parent


def texts(name: str) -> dict[str, str]:
    lines = (EXAMPLES / "data" / name).read_text(encoding="utf-8").splitlines()
    return {record["id"]: record["text"] for record in map(json.loads, lines)}


def main() -> None:
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "reranked.trec")
    run = read_run(EXAMPLES / "data" / "first-stage.trec")
    reranker = Reranker.from_pretrained(EXAMPLES.parent / "models" / "minis" / "mamba2")
    reranked = reranker.rerank_run(run, texts("queries.jsonl"), texts("documents.jsonl"), depth=100)
    write_run(output, reranked, tag="mamba2-mini")
    print(f"{output}: {len(reranked)} queries")


if __name__ == "__main__":
    main()
