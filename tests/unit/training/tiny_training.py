"""A few groups, their texts and settings, for tests of training."""

from __future__ import annotations

from ssmrank.config.trainings import TrainSettings
from ssmrank.training.groups import Group, GroupSequences

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
