"""Encoders as transformers' classifiers and as ONNX graphs, run by the real libraries on batches of several shapes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from odd_pairs import DOCUMENTS, QUERY
from ssmrank.api import Reranker
from ssmrank.cli import main


def exported(checkpoint: Path, format: str) -> Path:
    folder = checkpoint.with_name("exported")
    assert main(["export", str(checkpoint), str(folder), "--format", format]) == 0
    return folder


def encoded(folder: Path, query: str, documents: list[str]):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [(query, document) for document in documents]
    return tokenizer(pairs, truncation="only_second", padding=True, return_tensors="pt")


def own(checkpoint: Path, query: str, documents: list[str]) -> list[float]:
    return Reranker.from_pretrained(checkpoint, device="cpu", precision="fp32").score(query, documents)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [("bert", {}), ("roberta", {}), ("electra", {}), ("modernbert", {}), ("modernbert-deep", {"pooling": "mean"})],
)
def test_a_classifier_of_transformers_gives_our_scores(checkpoint, shape: str, settings: dict[str, str]) -> None:
    folder = checkpoint(shape, spread=0.25, **settings)  # scores of a few units, as trained rerankers give them
    out = exported(folder, "transformers")
    exact = own(folder, QUERY, DOCUMENTS)
    assert np.ptp(exact) > 0.005
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.config.num_labels == 1
    with torch.inference_mode():
        logits = model(**encoded(out, QUERY, DOCUMENTS)).logits
    np.testing.assert_allclose(logits[:, 0], exact, atol=1e-4)
    # sentence-transformers cuts the longer text of a pair, which is the document here.
    found = CrossEncoder(str(out), device="cpu").predict([(QUERY, document) for document in DOCUMENTS])
    np.testing.assert_allclose(found, exact, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "settings"),
    [("bert", {"pooling": "mean"}), ("roberta", {}), ("electra", {}), ("modernbert-deep", {})],
)
def test_onnx_runtime_gives_our_scores(checkpoint, shape: str, settings: dict[str, str]) -> None:
    folder = checkpoint(shape, **settings)
    out = exported(folder, "onnx")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    for documents in (DOCUMENTS, DOCUMENTS[:1]):
        inputs = encoded(out, QUERY, documents)
        feed = {name: inputs[name].numpy() for name in ("input_ids", "attention_mask")}
        [found] = session.run(["scores"], feed)
        np.testing.assert_allclose(found, own(folder, QUERY, documents), atol=1e-4)


def test_a_missing_package_is_named_with_the_extra(checkpoint, monkeypatch, capsys) -> None:
    folder = checkpoint("bert")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    out = folder.with_name("exported")
    assert main(["export", str(folder), str(out), "--format", "onnx"]) == 2
    assert "onnxscript is not installed; pip install 'ssmrank[export]'" in capsys.readouterr().err
    assert not out.exists()
