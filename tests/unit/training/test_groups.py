from __future__ import annotations

import json

import pytest

from ssmrank.errors import UserError
from ssmrank.models.templates import Template
from ssmrank.training.groups import Group, GroupSequences, read_groups


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_groups_put_the_relevant_document_first(tmp_path):
    path = write(tmp_path / "g.jsonl", {"query": "q", "positive": "p", "negatives": ["a", "b"]})
    assert read_groups(path, 2) == [Group("q", ("p", "a", "b"))]


def test_wrong_groups_are_named(tmp_path):
    with pytest.raises(UserError, match=r"g.jsonl:1: key 'positive' is missing"):
        read_groups(write(tmp_path / "g.jsonl", {"query": "q", "negatives": []}), 1)
    with pytest.raises(UserError, match=r"g.jsonl:2: 1 negatives, but the settings say 2"):
        good = {"query": "q", "positive": "p", "negatives": ["a", "b"]}
        read_groups(write(tmp_path / "g.jsonl", good, good | {"negatives": ["a"]}), 2)
    with pytest.raises(UserError, match=r"g.jsonl: has no group"):
        read_groups(write(tmp_path / "g.jsonl"), 2)


def test_sequences_are_those_of_the_template(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D")
    texts = {"p": "state space models rank text passages", "a": "river boat", "b": "fish"}
    data = GroupSequences([Group("q", ("p", "a", "b"))], template, {"q": "mamba"}, texts, 12)
    assert data.lengths.tolist() == [sum(len(sequence) for sequence in data[0])]
    assert max(len(sequence) for sequence in data[0]) == 12
    [query] = template.tokenize_queries(["mamba"])
    for sequence, document in zip(data[0], ["p", "a", "b"], strict=True):
        [tokens] = template.tokenize_documents([texts[document]])
        assert sequence.tolist() == template.join(query, tokens, 12).tolist()


@pytest.mark.parametrize("order", ["query-first", "query-document-query", "document-document-query"])
def test_lengths_of_groups_are_those_of_their_sequences(tiny_tokenizer, order):
    texts = {"p": "state space models rank text passages " * 4, "a": "river boat", "b": "fish " * 9}
    template = Template.of(tiny_tokenizer, "D", order)
    for max_length in (20, 32, 60):
        data = GroupSequences([Group("q", ("p", "a", "b"))], template, {"q": "mamba scan"}, texts, max_length)
        assert data.lengths.tolist() == [sum(len(sequence) for sequence in data[0])]
        assert max(len(sequence) for sequence in data[0]) <= max_length


def test_a_query_that_the_split_does_not_have_is_named(tiny_tokenizer):
    with pytest.raises(UserError, match="query q9"):
        GroupSequences([Group("q9", ("p",))], Template.of(tiny_tokenizer, "D"), {}, {"p": "x"}, 16)


def test_long_queries_are_found_before_the_first_step(tiny_tokenizer):
    words = ([Group("q", ("p",))], Template.of(tiny_tokenizer, "D"), {"q": "a " * 99}, {"p": "x"}, 16)
    with pytest.raises(UserError, match="query q: its 102 tokens leave no room"):
        GroupSequences(*words, "error")
    cut = GroupSequences(*words)
    assert cut.queries_cut == 1 and len(cut[0][0]) == cut.length(0) <= 16


GROUP = {"query": "q", "positive": "p", "negatives": ["a", "b"]}


def test_a_teachers_scores_come_from_the_file(tmp_path, tiny_tokenizer):
    path = write(tmp_path / "g.jsonl", GROUP | {"scores": [3, 0.5, -1.0]}, GROUP | {"scores": [1.0, 2.0, 3.0]})
    groups = read_groups(path, 2, distils=True)
    assert groups[0] == Group("q", ("p", "a", "b"), (3.0, 0.5, -1.0))
    texts = {"p": "state", "a": "river", "b": "fish"}
    data = GroupSequences(groups, Template.of(tiny_tokenizer, "D"), {"q": "mamba"}, texts, 16)
    assert data.teacher([1, 0]).tolist() == [[1.0, 2.0, 3.0], [3.0, 0.5, -1.0]]
    plain = GroupSequences(read_groups(path, 2), Template.of(tiny_tokenizer, "D"), {"q": "mamba"}, texts, 16)
    assert plain.teacher([1, 0]) is None


def test_distillation_without_sound_scores_is_named(tmp_path):
    with pytest.raises(UserError, match=r'g.jsonl:2: key "scores" is missing; a distillation loss needs'):
        read_groups(write(tmp_path / "g.jsonl", GROUP | {"scores": [1, 2, 3]}, GROUP), 2, distils=True)
    for scores in ([1.0, 2.0], [1.0, 2.0, float("nan")], [1.0, 2.0, "3"], [True, 1.0, 2.0], 1.0):
        path = write(tmp_path / "g.jsonl", GROUP | {"scores": scores})
        with pytest.raises(UserError, match=r'g.jsonl:1: "scores" must be a list of 3 finite numbers'):
            read_groups(path, 2, distils=True)
