"""MaxP: scores a long document by its best passage (Dai and Callan 2019).

`passages: {length: 64, stride: 32}` in a section of `rerankings` does this for whole runs.
"""

from pathlib import Path

from ssmrank import PassageWindows, Reranker

MODELS = Path(__file__).resolve().parents[1] / "models"
FILLER = "The committee met again and spoke of the roof, the garden and the price of bread. " * 20
DOCUMENTS = [
    f"{FILLER} Mamba is a state space model whose cost grows linearly with the sequence. {FILLER}",
    f"{FILLER} The choir sang in the evening, and the lamps were lit along the river. {FILLER}",
]
QUERY = "linear time sequence models"


def main() -> None:
    reranker = Reranker.from_pretrained(MODELS / "minis" / "mamba2", precision="fp32")
    whole = reranker.score(QUERY, DOCUMENTS)
    best = reranker.score(QUERY, DOCUMENTS, passages=PassageWindows(length=64, stride=32))
    for document, one, other in zip(DOCUMENTS, whole, best, strict=True):
        subject = document.removeprefix(FILLER).split(".")[0].strip()
        print(f"cut {one:6.2f}, best passage {other:6.2f}: {subject}")


if __name__ == "__main__":
    main()
