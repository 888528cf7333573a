"""A few groups, their texts and settings, for tests of training."""

from __future__ import annotations

from ssmrank.config.trainings import TrainSettings
from ssmrank.models.bi_encoder import BiEncoderSettings, new_bi_encoder
from ssmrank.training.groups import Group, GroupSequences
from ssmrank.training.texts import TextGroups

QUERIES = {"q1": "mamba", "q2": "river", "q3": "search"}
DOCUMENTS = {
    "d1": "mamba state space models",
    "d2": "river boat fish",
    "d3": "search engine lucene index",
    "d4": "mountain snow",
}
GROUPS = [
    Group("q1", ("d1", "d2", "d4")),
    Group("q2", ("d2", "d1", "d3")),
    Group("q3", ("d3", "d4", "d1")),
    Group("q1", ("d1", "d3", "d2")),
]


def settings(**changes) -> TrainSettings:
    values = {
        "collection": "c",
        "split": "train",
        "negatives": "n",
        "negatives_count": 2,
        "max_length": 32,
        "label": "FirstP",
        "learning_rate": 5e-3,
        "batch_groups": 4,
        "epochs": 8,
        "precision": "fp32",
    }
    return TrainSettings(**(values | changes))


def sequences(reranker, groups=GROUPS) -> GroupSequences:
    return GroupSequences(groups, reranker.template, QUERIES, DOCUMENTS, 32)


QRELS = {"q1": {"d1": 1, "d4": 0}, "q2": {"d2": 1, "d4": 1}, "q3": {"d3": 1}}


def bi_encoder(folder, kind, **changes):
    """A bi-encoder of 32 tokens a text and its changed settings."""
    return new_bi_encoder(folder, BiEncoderSettings(**({"kind": kind, "max_length": 32, "query_length": 16} | changes)))


def text_groups(model, groups=GROUPS) -> TextGroups:
    return TextGroups(groups, model, QUERIES, DOCUMENTS, QRELS)
