"""MaxP: scores a long document by its best passage (Dai and Callan 2019).

`passages: {length: 64, stride: 32}` in a section of `rerankings` does this for whole runs, on tokens in place of words.
"""

from pathlib import Path

from ssmrank.models import load_reranker

MODELS = Path(__file__).resolve().parents[1] / "models"
LENGTH, STRIDE = 64, 32  # words of a passage, and from one passage's start to the next one's


def passages(document: str) -> list[str]:
    words = document.split()
    starts = range(0, max(1, len(words) - LENGTH + STRIDE), STRIDE)
    return [" ".join(words[start : start + LENGTH]) for start in starts]


def main() -> None:
    filler = "The committee met again and spoke of the roof, the garden and the price of bread. " * 20
    document = f"{filler} Mamba is a state space model whose cost grows linearly with the sequence. {filler}"
    query = "linear time sequence models"

    reranker = load_reranker(MODELS / "minis" / "mamba2")
    pieces = passages(document)
    scores = reranker.score(query, pieces)
    best = max(range(len(pieces)), key=scores.__getitem__)
    print(f"whole document, cut to {reranker.settings.max_length} tokens: {reranker.score(query, [document])[0]:.2f}")
    print(f"best of {len(pieces)} passages: {scores[best]:.2f}")
    print(pieces[best])


if __name__ == "__main__":
    main()
