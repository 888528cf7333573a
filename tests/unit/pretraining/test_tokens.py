from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssmrank.cli import main
from ssmrank.collections.corpus import is_held_out, read_texts
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.templates import Template
from ssmrank.pretraining.tokens import CorpusTokens

TEXTS = ["Deep Networks; a query?", "naïve café, 3.14 µm, 東京 🙂", "tabs\tand\nlines", "[CLS] is no token here", ""]


def test_a_text_survives_but_for_its_case(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text.lower()
    assert len(tokenizer) == 384
    assert max(tokenizer.get_vocab().values()) == 383


def test_templates_stand_between_the_tokens_that_pretraining_has(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    cls, sep, pad, mask = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    assert (pad, cls, sep, mask) == (0, 1, 2, 3)
    assert tokenizer.encode("a")[0] == cls
    assert tokenizer.encode("a")[-1] == sep
    decoder, encoder = (Template.of(tokenizer, kind) for kind in ("D", "E"))
    assert (decoder.before, decoder.after) == ((cls,), (sep,))
    assert (encoder.before, encoder.after) == ((cls,), ())
    # Cut after the `;`, both sides have the tokens of the joint text.
    for document in TEXTS:
        text = f"document: {document}; query: Snow;"
        joint = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        [left], [right] = decoder.tokenize_documents([document]), decoder.tokenize_queries(["Snow"])
        assert [*left, *right] == joint


def test_held_out_texts_are_in_their_own_part_alone(corpus: dict, tokenizer_folder: Path, tokens_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    expected: dict[bool, list[list[int]]] = {False: [], True: []}
    for name in corpus["files"]:
        for text in read_texts(Path(corpus["path"], name)):
            ids = tokenizer.encode(f"{text.text}\n{text.title}", add_special_tokens=False)[:62]
            expected[is_held_out(text.id, corpus["held_out"])].append(ids)
    assert 10 < len(expected[True]) < 30
    for held_out, part in ((False, "train"), (True, "held-out")):
        tokens = CorpusTokens(tokens_folder, part)
        assert [tokens[index].tolist() for index in range(len(tokens))] == expected[held_out]
        np.testing.assert_array_equal(tokens.lengths, [len(ids) for ids in expected[held_out]])


def test_what_is_held_out_depends_on_the_id_alone() -> None:
    share = np.mean([is_held_out(f"{number:04d}", 0.05) for number in range(20_000)])
    assert share == pytest.approx(0.05, abs=0.005)
    few = {number for number in range(2_000) if is_held_out(str(number), 0.02)}
    assert few < {number for number in range(2_000) if is_held_out(str(number), 0.05)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "nowhere"}, "nowhere: no such folder; put the corpus there"),
        ({"files": ["part-9.jsonl"]}, "part-9.jsonl: no such file; put it there"),
        ({"files": ["bad.jsonl"]}, 'bad.jsonl:2: key "title" is missing'),
        ({"files": ["cut.jsonl.xz"]}, "cut.jsonl.xz: damaged after line"),
    ],
)
def test_one_line_for_a_corpus_that_is_wrong(
    corpus: dict, tmp_path: Path, capsys: pytest.CaptureFixture, change: dict, message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"_id": "1", "title": "a", "text": "b"}\n{"_id": "2", "text": "b"}\n')
    packed = Path(corpus["path"], "part-1.jsonl.xz").read_bytes()
    (tmp_path / "cut.jsonl.xz").write_bytes(packed[: len(packed) // 2])
    wrong = corpus | {"path": str(tmp_path)} | change
    options = ["--corpus", json.dumps(wrong), "--vocabulary", "384", "--texts", "999", "--max-length", "64"]
    assert main(["pretrain", "tokenizer", *options, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
