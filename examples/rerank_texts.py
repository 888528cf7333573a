"""Orders texts for a query, best first: `python examples/rerank_texts.py "a query" "first text" "second text"`."""

import sys
from pathlib import Path

from ssmrank import Reranker

MODELS = Path(__file__).resolve().parents[1] / "models"
TEXTS = [
    "The river was cold in spring, and the boats stayed in the harbour.",
    "Mamba is a state space model that reads a sequence in linear time.",
    "A reranker orders the passages that a first stage has found.",
]


def main() -> None:
    query, *texts = sys.argv[1:] or ["sequence modeling with state spaces", *TEXTS]
    reranker = Reranker.from_pretrained(MODELS / "minis" / "mamba2")
    for ranked in reranker.rank(query, texts):
        print(f"{ranked.score:7.2f}  {ranked.document}")


if __name__ == "__main__":
    main()
