"""sentence-transformers' CrossEncoder in the server of `ssmrank serve`: the same routes, queue and batches.

    python benchmarks/serving_cross_encoder.py --checkpoint models/minis/mamba2 --folder EXPORTED --port PORT

So a difference between the two is one of the model's computation alone. `predict` gets all pairs of a batch, sorts them
by length and pads them, 32 at a time, which is its default.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder

from ssmrank import Reranker
from ssmrank.serving.record import RequestLog
from ssmrank.serving.scorers import ComputedScore
from ssmrank.serving.server import bind, serve
from ssmrank.serving.service import Service
from ssmrank.serving.settings import ServerSettings


class CrossEncoderScorer:
    """Scores pairs by `CrossEncoder.predict`, which keeps no documents."""

    def __init__(self, model: CrossEncoder) -> None:
        self.model = model

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[ComputedScore]:
        scores = self.model.predict(list(pairs), show_progress_bar=False, convert_to_numpy=True)
        return [ComputedScore(float(score)) for score in scores]

    def sizes(self, texts: Sequence[str]) -> None:
        return None

    def stats(self) -> None:
        return None


def minilm_shape(folder: Path, tokenizer: Path, max_length: int) -> None:
    """A classifier of MiniLM-L6's shape with random weights: it costs what MiniLM-L6 costs."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokens = AutoTokenizer.from_pretrained(tokenizer)
    tokens.model_max_length = max_length
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
        pad_token_id=tokens.pad_token_id,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokens.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="ssmrank's, which says how texts are cut")
    parser.add_argument("--folder", type=Path, required=True, help="the same model as CrossEncoder reads it")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    listener = bind("127.0.0.1", arguments.port)
    # The folder's code is what `ssmrank export` wrote a moment ago.
    model = CrossEncoder(str(arguments.folder), trust_remote_code=True, device="cpu")
    reranker = Reranker.from_pretrained(arguments.checkpoint, device="cpu", precision="fp32")
    serve(Service(reranker, CrossEncoderScorer(model), "cross-encoder", ServerSettings()), listener, RequestLog())


if __name__ == "__main__":
    main()
