"""Settings of trainings and of their teachers."""

from __future__ import annotations

from ssmrank.config.encoders import Encoder
from ssmrank.config.params import Params
from ssmrank.config.rerankings import Reranking
from ssmrank.config.teachers import EncoderTeacher, RunTeacher, TeachSettings
from ssmrank.config.trainings import TrainSettings


def train_settings(params: Params, training: str, model: str) -> TrainSettings:
    """For `ssmrank train`: the section of a training, or of a training with a seed, with the model's overrides."""
    section = params.training(training)
    overrides = params.models[model].training.model_dump(exclude_none=True)
    count = params.negatives[section.negatives].count
    return TrainSettings(**(section.model_dump() | overrides | {"negatives_count": count, "label": ""}))


def teach_settings(params: Params, teacher: str, negatives: str) -> TeachSettings:
    """For `ssmrank teach`: a teacher's section with the sections of its members, for groups of these negatives."""
    section = params.teachers[teacher]
    members: dict[str, RunTeacher | Encoder | Reranking] = {}
    for name, member in section.members.items():
        if isinstance(member, RunTeacher):
            members[name] = member
        elif isinstance(member, EncoderTeacher):
            members[name] = params.encoders[member.encoder]
        else:
            depth, budget = section.depth, member.token_budget
            members[name] = Reranking(
                retriever=section.retriever, depth=depth, token_budget=budget, precision=member.precision
            )
    return TeachSettings(
        members=members,
        weights={name: member.weight for name, member in section.members.items()},
        depth=section.depth,
        scale=section.scale,
        positive_bonus=section.positive_bonus,
        negatives_count=params.negatives[negatives].count,
    )
