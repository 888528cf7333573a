"""Bi-encoders as `ssmrank train` makes them, and what else their folders are taken for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_training import DOCUMENTS, QUERIES, settings
from transformers import AutoModel

from ssmrank.cli import main
from ssmrank.config.encoders import Encoder
from ssmrank.errors import UserError
from ssmrank.io.jsonl import write_jsonl
from ssmrank.models.bi_encoder import load_bi_encoder
from ssmrank.models.reranker import load_reranker
from ssmrank.retrieval.encoder import BiEncoder

CPU = torch.device("cpu")
PLAIN = Encoder(model="m", precision="fp32")


@pytest.fixture
def checkpoint(options, tmp_path) -> Path:
    chosen = {"query_length": 8, "widths": [8], "query_instruction": "query: ", "temperature": 0.1}
    assert main(options("mamba2", "D", bi_encoder=chosen, epochs=20, learning_rate=1e-2)) == 0
    return tmp_path / "output"


def test_a_trained_one_finds_what_it_was_trained_on(checkpoint) -> None:
    losses = json.loads((checkpoint / "outcome.json").read_text())["loss"]
    assert losses[-1] < losses[0] / 2
    encoder = BiEncoder(checkpoint, PLAIN, CPU)
    scores = encoder.queries(list(QUERIES.values())) @ encoder.documents(list(DOCUMENTS.values())).T
    assert scores.argmax(axis=1).tolist()[1:] == [1, 2]
    assert json.loads((checkpoint / "training.json").read_text())["settings"]["bi_encoder"]["widths"] == [8]


def test_vectors_are_the_last_states_of_transformers(checkpoint) -> None:
    encoder, tokenizer = BiEncoder(checkpoint, PLAIN, CPU), load_bi_encoder(checkpoint).tokenizer
    reference = AutoModel.from_pretrained(checkpoint).eval()
    texts = ["river boat", "a much longer text about mamba and state space models"]
    ends = [tokenizer.sep_token_id]
    for sides, text, length in [("queries", "query: {}", 8), ("documents", "{}", 32)]:
        ids = [tokenizer.encode(text.format(one), add_special_tokens=False)[: length - 1] + ends for one in texts]
        with torch.no_grad():
            states = [reference(torch.tensor([one])).last_hidden_state[0, -1].numpy() for one in ids]
        for width in (None, 8):
            found = getattr(BiEncoder(checkpoint, Encoder(model="m", precision="fp32", width=width), CPU), sides)(texts)
            cut = [state[:width] for state in states]
            np.testing.assert_allclose(found, [state / np.linalg.norm(state) for state in cut], atol=2e-5)
    assert encoder.documents([""]).shape == (1, 32)


def test_a_bi_encoder_is_no_reranker_and_a_reranker_is_no_bi_encoder(checkpoint, options, tmp_path) -> None:
    with pytest.raises(UserError, match=r"output: is a bi-encoder \(bi_encoder\.json\), which retrieves but does not"):
        load_reranker(checkpoint)
    with pytest.raises(UserError, match=r"encoders: pooling: .*output was trained here and has its own"):
        BiEncoder(checkpoint, Encoder(model="m", pooling="mean"), CPU)
    with pytest.raises(UserError, match="width 99 is more than the model's, 32; lower it"):
        BiEncoder(checkpoint, Encoder(model="m", width=99), CPU)
    (tmp_path / "output").rename(tmp_path / "bi-encoder")
    assert main(options(epochs=1)) == 0
    with pytest.raises(UserError, match=r"output: is a reranker \(reranker\.json\), which makes no vectors"):
        BiEncoder(tmp_path / "output", PLAIN, CPU)
    with pytest.raises(UserError, match=r"output: is a reranker, which makes no vectors \(no bi_encoder\.json\)"):
        load_bi_encoder(tmp_path / "output")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "last"}, "bi_encoder.pooling: last is not for models of kind E; choose first or mean"),
        ({"widths": [16, 64]}, "bi_encoder.widths: 64 is more than the model's width, 32; lower it"),
    ],
)
def test_settings_that_a_model_cannot_have(options, capsys, changes, message) -> None:
    assert main(options(bi_encoder=changes)) == 2
    assert message in capsys.readouterr().err


def test_settings_that_no_bi_encoder_can_have() -> None:
    with pytest.raises(ValidationError, match="loss ranknet: not for bi_encoder; choose cross_entropy or"):
        settings(bi_encoder={}, loss="ranknet")
    held_out = {"split": "dev", "retriever": "bm25", "every_steps": 1}
    with pytest.raises(ValidationError, match="validation: reranks held-out queries"):
        settings(bi_encoder={}, validation=held_out)
    with pytest.raises(ValidationError, match="must be at least 1 and different"):
        settings(bi_encoder={"widths": [4, 4]})


def test_a_teacher_s_order_is_learnt(options, tmp_path) -> None:
    words = options(
        "mamba2", "D", bi_encoder={"contrastive_weight": 0}, loss="kl_divergence", epochs=30, learning_rate=1e-2
    )
    taught = {"query": "q1", "positive": "d1", "negatives": ["d2", "d4"], "scores": [0.0, 5.0, -5.0]}
    write_jsonl(tmp_path / "groups.jsonl", [taught])
    assert main(words) == 0
    encoder = BiEncoder(tmp_path / "output", PLAIN, CPU)
    [query], documents = encoder.queries(["mamba"]), encoder.documents([DOCUMENTS[id] for id in ("d2", "d1", "d4")])
    assert np.all(np.diff(documents @ query) < 0)
