from __future__ import annotations

import json

import pytest

from ssmrank.errors import UserError
from ssmrank.models.templates import Template
from ssmrank.training.groups import Group, GroupSequences, micro_batches, read_groups, step_indices


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_groups_put_the_relevant_document_first(tmp_path):
    path = write(tmp_path / "g.jsonl", {"query": "q", "positive": "p", "negatives": ["a", "b"]})
    assert read_groups(path, 2) == [Group("q", ("p", "a", "b"))]


def test_wrong_groups_are_named(tmp_path):
    with pytest.raises(UserError, match=r"g.jsonl:1: key 'positive' is missing"):
        read_groups(write(tmp_path / "g.jsonl", {"query": "q", "negatives": []}), 1)
    with pytest.raises(UserError, match=r"g.jsonl:2: 1 negatives where 2 are set"):
        good = {"query": "q", "positive": "p", "negatives": ["a", "b"]}
        read_groups(write(tmp_path / "g.jsonl", good, good | {"negatives": ["a"]}), 2)
    with pytest.raises(UserError, match=r"g.jsonl: holds no group"):
        read_groups(write(tmp_path / "g.jsonl"), 2)


def test_sequences_are_those_of_the_template(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D")
    texts = {"p": "state space models", "a": "river boat", "b": "fish"}
    data = GroupSequences([Group("q", ("p", "a", "b"))], template, {"q": "mamba"}, texts, 12)
    [query] = template.tokenize_queries(["mamba"])
    for sequence, document in zip(data[0], ["p", "a", "b"], strict=True):
        [tokens] = template.tokenize_documents([texts[document]])
        assert sequence.tolist() == template.join(query, tokens, 12).tolist()


def test_a_query_that_the_split_does_not_have_is_named(tiny_tokenizer):
    with pytest.raises(UserError, match="query q9"):
        GroupSequences([Group("q9", ("p",))], Template.of(tiny_tokenizer, "D"), {}, {"p": "x"}, 16)


def test_each_pass_visits_every_group_once():
    steps = list(step_indices(groups=10, batch_groups=4, seed=1, first_step=0, total_steps=5))
    visited = [index for step in steps for index in step]
    assert sorted(visited[:10]) == sorted(visited[10:]) == list(range(10))
    assert visited[:10] != visited[10:]


def test_steps_can_be_had_from_the_middle():
    whole = list(step_indices(10, 4, 1, 0, 9))
    assert list(step_indices(10, 4, 1, 6, 9)) == whole[6:]


def test_micro_batches_by_hand():
    assert micro_batches([30, 30, 50, 200, 10], 100) == [[0, 1], [2], [3], [4]]
