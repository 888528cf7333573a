"""Writes a reranker for sentence-transformers and scores with both: `python export_a_model.py CHECKPOINT FOLDER`.

Needs `pip install 'ssmrank[export]'`.
"""

import sys
import tempfile
from pathlib import Path

from sentence_transformers import CrossEncoder

from ssmrank import Reranker
from ssmrank.export.formats import export

MINI = Path(__file__).resolve().parents[1] / "models" / "minis" / "mamba2"
QUERY = "sequence modeling with state spaces"
TEXTS = [
    "The river was cold in spring, and the boats stayed in the harbour.",
    "Mamba is a state space model that reads a sequence in linear time.",
]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, folder = map(Path, sys.argv[1:] or [MINI, Path(scratch) / "exported"])
        export(checkpoint, folder, "sentence-transformers")
        theirs = CrossEncoder(str(folder), device="cpu", trust_remote_code=True)
        found = theirs.predict([(QUERY, text) for text in TEXTS])
    own = Reranker.from_pretrained(checkpoint, device="cpu", precision="fp32").score(QUERY, TEXTS)
    print("   ssmrank  sentence-transformers")
    for mine, score, text in zip(own, found, TEXTS, strict=True):
        print(f"{mine:10.5f} {score:10.5f}  {text}")


if __name__ == "__main__":
    main()
