from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.texts import UnknownId
from ssmrank.models import tokens
from ssmrank.models.templates import Template
from ssmrank.models.tokens import TokenStore, token_store

TEXTS = {"d1": "mamba state space models", "d2": "", "d3": "search engine lucene index river", "é4": "fish"}


@pytest.fixture
def documents(tmp_path):
    write_jsonl(tmp_path / "documents.jsonl", ({"id": id, "text": text} for id, text in TEXTS.items()))
    return tmp_path / "documents.jsonl"


def assert_template_tokens(store, template, ids, max_tokens=None):
    expected = template.tokenize_documents([TEXTS[id] for id in ids])
    for id, wanted in zip(ids, expected, strict=True):
        assert store[id].dtype == np.int32
        assert store[id].tolist() == wanted[:max_tokens].tolist()


@pytest.mark.parametrize("kind", ["E", "D"])
@pytest.mark.parametrize("processes", [1, 2])
def test_tokens_are_the_templates(documents, tiny_tokenizer, tmp_path, kind, processes, monkeypatch):
    monkeypatch.setattr(tokens, "_CHUNK", 1)
    template = Template.of(tiny_tokenizer, kind)
    store = token_store(documents, template, tmp_path / "cache", processes=processes)
    assert len(store) == 4
    assert_template_tokens(store, template, list(TEXTS))
    assert "é4" in store and "d9" not in store
    with pytest.raises(UnknownId, match="'d9'"):
        store["d9"]


def test_only_what_is_asked_for_is_kept(documents, tiny_tokenizer, tmp_path):
    template = Template.of(tiny_tokenizer, "D")
    store = token_store(documents, template, tmp_path / "cache", ids=["d3", "d1", "d3"], max_tokens=4)
    assert (len(store), "d2" in store) == (2, False)
    assert_template_tokens(store, template, ["d1", "d3"], max_tokens=4)
    with pytest.raises(UnknownId, match="'d9'"):
        token_store(documents, template, tmp_path / "cache", ids=["d9"])
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [store.folder.name]


def test_trainings_that_start_together_tokenize_once(documents, tiny_tokenizer, tmp_path, monkeypatch):
    made, tokenize = [], tokens._tokenize

    def slowly(*arguments):
        made.append(arguments)
        time.sleep(0.3)
        return tokenize(*arguments)

    monkeypatch.setattr(tokens, "_tokenize", slowly)
    template = Template.of(tiny_tokenizer, "D")
    with ThreadPoolExecutor(3) as pool:
        started = [pool.submit(token_store, documents, template, tmp_path / "cache") for _ in range(3)]
        for store in started:
            assert_template_tokens(store.result(), template, list(TEXTS))
    assert len(made) == 1


def test_a_document_kept_to_max_length_is_cut_to_the_same_tokens(documents, tiny_tokenizer, tmp_path):
    for kind in ("E", "D"):
        template = Template.of(tiny_tokenizer, kind)
        [query] = template.tokenize_queries(["fish"])
        whole = token_store(documents, template, tmp_path / "cache")
        for max_length in range(len(query) + 4, 24):
            kept = token_store(documents, template, tmp_path / "cache", max_tokens=max_length)
            for id in TEXTS:
                joined = template.join(query, kept[id], max_length).tolist()
                assert joined == template.join(query, whole[id], max_length).tolist()


def test_tokens_are_made_once_and_again_when_anything_differs(documents, tiny_tokenizer, tmp_path, monkeypatch):
    cache, template = tmp_path / "cache", Template.of(tiny_tokenizer, "D")
    first = token_store(documents, template, cache)
    monkeypatch.setattr(tokens, "_tokenize", None)
    assert token_store(documents, template, cache).folder == first.folder
    monkeypatch.undo()
    folders = {first.folder}
    folders.add(token_store(documents, Template.of(tiny_tokenizer, "E"), cache).folder)
    folders.add(token_store(documents, template, cache, ids=["d1"]).folder)
    folders.add(token_store(documents, template, cache, max_tokens=3).folder)
    write_jsonl(documents, [{"id": "d1", "text": "another"}])
    folders.add(token_store(documents, template, cache).folder)
    assert len(folders) == 5


def test_damaged_tokens_are_made_again(documents, tiny_tokenizer, tmp_path):
    template = Template.of(tiny_tokenizer, "D")
    store = token_store(documents, template, tmp_path / "cache")
    content = (store.folder / "tokens.bin").read_bytes()
    (store.folder / "tokens.bin").write_bytes(content[:-5])
    with pytest.raises(ValueError, match=r"tokens.bin: \d+ bytes, expected \d+"):
        TokenStore(store.folder)
    assert_template_tokens(token_store(documents, template, tmp_path / "cache"), template, list(TEXTS))
