"""Exported folders, read by the real sentence-transformers and compared with our own scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from odd_pairs import DOCUMENTS, LONG_QUERY, QUERY
from ssmrank.api import Reranker
from ssmrank.cli import main
from tiny_models import SHAPES


def exported(checkpoint: Path, *options: str) -> Path:
    folder = checkpoint.with_name("exported")
    assert main(["export", str(checkpoint), str(folder), "--format", "sentence-transformers", *options]) == 0
    return folder


def check(checkpoint: Path, folder: Path, queries: list[str], documents: list[str] = DOCUMENTS, code=False) -> None:
    reader = CrossEncoder(str(folder), device="cpu", trust_remote_code=code)
    own = Reranker.from_pretrained(checkpoint, device="cpu", precision="fp32")
    for query in queries:
        found = reader.predict([(query, document) for document in documents], batch_size=4)
        exact = own.score(query, documents)
        assert np.ptp(exact) > 0.01
        np.testing.assert_allclose(found, exact, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_architecture_needs_no_code_if_the_tokenizer_is_wordpiece(checkpoint, shape: str) -> None:
    folder = checkpoint(shape)
    check(folder, exported(folder), [QUERY, "snow"])


@pytest.mark.parametrize(
    ("shape", "family"),
    [
        ("roberta", "roberta"),
        ("bart", "bart"),
        ("modernbert", "gpt-neox"),
        ("opt", "opt"),
        ("gpt_neox", "gpt-neox"),
        ("mamba", "gpt-neox"),
        ("mamba2", "gpt-neox"),
        ("llama", "llama-3.2"),
    ],
)
def test_with_byte_level_tokenizers_a_file_of_code_reads_pairs(
    checkpoint, byte_level_tokenizer, shape: str, family: str
) -> None:
    tokenizer = byte_level_tokenizer(family)
    if shape == "modernbert":
        tokenizer.add_special_tokens({"cls_token": "<|padding|>"})
    folder = checkpoint(shape, tokenizer, 64)
    out = exported(folder)
    with pytest.raises(ValueError, match="trust_remote_code"):
        CrossEncoder(str(out), device="cpu")
    check(folder, out, [QUERY, "snow", LONG_QUERY], code=True)


def test_template_pooling_and_long_queries_are_the_checkpoints(checkpoint) -> None:
    folder = checkpoint("mamba2", template="query-document-query", pooling="mean")
    check(folder, exported(folder), [QUERY, LONG_QUERY], code=True)


@pytest.mark.parametrize("length", [40, 64, 400])
def test_a_document_that_is_read_twice(checkpoint, length: int, capsys) -> None:
    folder = checkpoint("mamba2", max_length=length, template="document-document-query")
    check(folder, exported(folder), [QUERY, "snow", LONG_QUERY], code=True)
    other = str(folder.with_name("other"))
    assert main(["export", str(folder), other, "--format", "sentence-transformers", "--without-code"]) == 2
    assert "it reads the document twice" in capsys.readouterr().err


def test_a_pair_template_holds_other_orders_too(checkpoint) -> None:
    folder = checkpoint("bert", template="document-first", pooling="last")
    check(folder, exported(folder), [QUERY, "snow"])


def test_code_can_be_left_out_where_few_texts_differ(checkpoint, byte_level_tokenizer, caplog) -> None:
    folder = checkpoint("llama", byte_level_tokenizer("llama-3.2"), 400)
    out = exported(folder, "--without-code")
    assert not list(out.glob("*.py"))
    assert "become other tokens" in caplog.text
    check(folder, out, ["snow on a mountain"], ["A river with boats", "models rank text", "mamba " * 30])


def test_code_refuses_what_is_no_pair(checkpoint, byte_level_tokenizer) -> None:
    out = exported(checkpoint("opt", byte_level_tokenizer("opt")))
    reader = CrossEncoder(str(out), device="cpu", trust_remote_code=True)
    with pytest.raises(ValueError, match="pairs of two texts"):
        reader.predict(["one text", "another", "a third"])
    with pytest.raises(ValueError, match="no prompt"):
        reader.predict([("a", "b")], prompt="find: ")


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ("mamba2", ["--format", "onnx"], "no operator for Mamba's scan"),
        ("mamba3", ["--format", "onnx"], "no operator for Mamba's scan"),
        ("llama", ["--format", "onnx"], "only encoders"),
        ("mamba", ["--format", "transformers"], "mamba cannot be written"),
        ("bart", ["--format", "transformers"], "bart cannot be written"),
        ("bert", ["--format", "transformers", "--without-code"], "--without-code: format transformers"),
    ],
)
def test_what_cannot_be_written_is_one_line(checkpoint, capsys, shape: str, options: list[str], message: str) -> None:
    folder = checkpoint(shape)
    out = folder.with_name("exported")
    assert main(["export", str(folder), str(out), *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_with_files_is_left_alone(checkpoint, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    words = ["export", str(checkpoint("bert")), str(tmp_path / "mine"), "--format", "sentence-transformers"]
    assert main(words) == 2
    assert "there is something already" in capsys.readouterr().err
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"
