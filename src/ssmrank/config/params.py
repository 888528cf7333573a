"""The whole of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from ssmrank.config.collections import Collection
from ssmrank.config.corpora import Corpus
from ssmrank.config.encoders import Encoder
from ssmrank.config.evaluation import Evaluation
from ssmrank.config.fusions import Fusion, FusionMethod
from ssmrank.config.models import Model, PretrainedModel, ReadingOrder
from ssmrank.config.negatives import Negatives
from ssmrank.config.overviews import Overview
from ssmrank.config.pretraining import Pretraining
from ssmrank.config.reading import check, merge, read_sections
from ssmrank.config.references import References
from ssmrank.config.rerankings import Reranking
from ssmrank.config.retrievers import Dense, Retriever
from ssmrank.config.section import Name, Section
from ssmrank.config.tables import Table
from ssmrank.config.teachers import Teacher
from ssmrank.config.tracking import Tracking
from ssmrank.config.trainings import NO_TRAINING, SEED_SIGN, TRAINED_SIGN, SeededTraining, Training


class Params(Section):
    """The whole of params.yaml."""

    collections: dict[Name, Collection]
    encoders: dict[Name, Encoder] = {}
    retrievers: dict[Name, Retriever]
    negatives: dict[Name, Negatives]
    teachers: dict[Name, Teacher] = {}
    models: dict[Name, Model]
    trainings: dict[Name, SeededTraining]
    rerankings: dict[Name, Reranking]
    fusions: dict[Name, Fusion] = {}
    evaluation: Evaluation
    tables: dict[Name, Table]
    overviews: dict[Name, Overview] = {}
    tracking: Tracking = Tracking()
    corpora: dict[Name, Corpus] = {}
    pretraining: dict[Name, Pretraining] = {}

    @model_validator(mode="after")
    def _names_are_defined(self) -> Self:
        References(self).check()
        return self

    def defined_table(self, name: str) -> Table:
        """The section of a table; raises ValueError that suggests a similar name if there is none."""
        References(self).defined("tables", name, "table")
        return self.tables[name]

    def seeded(self, training: str) -> list[str]:
        """The names of a training with each of its seeds.

        With the seed of the key `seed` it has the training's own name, so that added seeds change nothing that exists.
        With another seed N its name is TRAINING@seedN. `NO_TRAINING` has this one name.
        """
        if training == NO_TRAINING:
            return [NO_TRAINING]
        section = self.trainings[training]
        return [
            training if seed == section.seed else f"{training}{SEED_SIGN}{seed}"
            for seed in section.seeds or [section.seed]
        ]

    def training(self, name: str) -> Training:
        """The section of a training by one of the names that `seeded` gives, with that seed."""
        training, sign, seed = name.partition(SEED_SIGN)
        values = dict(self.trainings[training]) | ({"seed": int(seed)} if sign else {})
        del values["seeds"]
        return Training.model_construct(**values)  # all values have been validated

    def fused_names(self, fusion: FusionMethod) -> list[str]:
        """The labels of the runs that a fusion names, in the order of their weights."""
        rerankers = fusion.rerankers if isinstance(fusion, Fusion) else []
        return [
            *(self.retrievers[name].label for name in fusion.retrievers),
            *(self.models[row.model].label for row in rerankers),
        ]

    def fusion_label(self, name: str) -> str:
        """What tables append to the name of a fused reranker."""
        fusion = self.fusions[name]
        return fusion.label or f"+ {' + '.join(self.fused_names(fusion))}"

    def with_seed_of(self, training: str, other: str) -> str:
        """The name (`seeded`) of training `other` with the seed of `training`; with `NO_TRAINING` its first name."""
        if NO_TRAINING in (training, other):
            return self.seeded(other)[0]
        seed = self.training(training).seed
        return other if self.trainings[other].seed == seed else f"{other}{SEED_SIGN}{seed}"

    def start(self, name: str) -> str | None:
        """The name (`seeded`) of the training that this one starts from, with the same seed; None: the model itself."""
        section = self.training(name)
        if section.start is None:
            return None
        return self.with_seed_of(name, section.start)

    def order(self, training: str, model: str) -> ReadingOrder:
        """The order in which a model reads its input after a training (`seeded`), or without one.

        A checkpoint keeps its order when it is trained further. That of a trained reranker from elsewhere is not known
        before it is there; it counts as its kind's own.
        """
        name = training.partition(SEED_SIGN)[0]
        while name != NO_TRAINING:
            section = self.trainings[name]
            if section.template is not None:
                return section.template
            name = section.start or NO_TRAINING
        entry = self.models[model]
        return entry.template or ("document-first" if entry.kind == "D" else "query-first")

    def encoder(self, name: str) -> Encoder:
        """A section of encoders, or by `RETRIEVER@trained` that of a retriever's trained bi-encoder."""
        retriever, sign, _ = name.partition(TRAINED_SIGN)
        if not sign:
            return self.encoders[name]
        section = self.retrievers[retriever]
        assert isinstance(section, Dense) and section.trained is not None
        values = section.trained.model_dump(exclude={"training"})
        return Encoder(**values, width=section.width)

    def encoder_of(self, retriever: str) -> str:
        """The name (`encoder`) of the bi-encoder of a dense retriever."""
        section = self.retrievers[retriever]
        assert isinstance(section, Dense)
        return section.encoder or f"{retriever}{TRAINED_SIGN}"

    def published_model(self, pretraining: str, model: str) -> str:
        """The name that a pretrained model has in section models."""
        wanted = PretrainedModel(kind="pretrained", pretraining=pretraining, model=model)
        return next(name for name, entry in self.models.items() if entry.source == wanted)


def read_params(*paths: str | Path) -> Params:
    """Reads params.yaml and overlays with the same keys; later files override earlier ones key by key."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_sections(path))
    return check(Params, merged, " + ".join(str(path) for path in paths))
