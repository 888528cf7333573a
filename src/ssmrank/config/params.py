"""The whole of params.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from ssmrank.config.collections import Collection, CorpusQueries, TitlesCollection
from ssmrank.config.corpora import Corpus
from ssmrank.config.encoders import Encoder
from ssmrank.config.evaluation import Evaluation
from ssmrank.config.fusions import FittedWeights, Fusion, FusionMethod
from ssmrank.config.models import Model, PretrainedModel, RandomModel
from ssmrank.config.negatives import Negatives
from ssmrank.config.overviews import ModelsSection, Overview, TrainingsSection
from ssmrank.config.pretraining import Pretraining
from ssmrank.config.reading import check, merge, read_sections
from ssmrank.config.rerankings import Reranking
from ssmrank.config.retrievers import Bm25, Dense, FileRetriever, FusedRetriever, Retriever
from ssmrank.config.section import Name, Section, suggest
from ssmrank.config.tables import Table, TestSet
from ssmrank.config.teachers import EncoderTeacher, RunTeacher, Teacher
from ssmrank.config.tracking import Tracking
from ssmrank.config.trainings import NO_TRAINING, SEED_SIGN, RerankerRow, SeededTraining, Training


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
        for name, pretraining in self.pretraining.items():
            self._defined("corpora", pretraining.corpus, f"pretraining.{name}.corpus")
            if pretraining.published is not None:
                self._defined("trainings", pretraining.published, f"pretraining.{name}.published")
                sources = [entry.source for entry in self.models.values()]
                for made in pretraining.models:
                    if PretrainedModel(kind="pretrained", pretraining=name, model=made) not in sources:
                        raise ValueError(
                            f"pretraining.{name}.published: no entry of models has source {{kind: pretrained, "
                            f"pretraining: {name}, model: {made}}}; add one"
                        )
        for name, source in ((name, collection.source) for name, collection in self.collections.items()):
            if isinstance(source, TitlesCollection | CorpusQueries) and source.corpus is not None:
                self._defined("corpora", source.corpus, f"collections.{name}.source.corpus")
            if isinstance(source, CorpusQueries) and source.collection is not None:
                where = f"collections.{name}.source.collection"
                self._defined("collections", source.collection, where)
                if isinstance(self.collections[source.collection].source, CorpusQueries):
                    raise ValueError(f"{where}: {source.collection!r} is made from texts too; name these texts")
        for name, negatives in self.negatives.items():
            self._defined("retrievers", negatives.retriever, f"negatives.{name}.retriever")
            if negatives.false_negatives is not None:
                where = f"negatives.{name}.false_negatives.retriever"
                self._defined("retrievers", negatives.false_negatives.retriever, where)
        for name, teacher in self.teachers.items():
            self._check_teacher(f"teachers.{name}", teacher)
        for name, encoder in self.encoders.items():
            self._defined("models", encoder.model, f"encoders.{name}.model")
        for name, section in self.retrievers.items():
            self._check_retriever(f"retrievers.{name}", section)
        for name, model in self.models.items():
            if isinstance(model.source, PretrainedModel):
                where = f"models.{name}.source"
                self._defined("pretraining", model.source.pretraining, f"{where}.pretraining")
                known = self.pretraining[model.source.pretraining].models
                if model.source.model not in known:
                    raise ValueError(
                        f"{where}.model: {model.source.model!r} is not in pretraining.{model.source.pretraining}.models"
                        f"{suggest(model.source.model, known)}"
                    )
            if isinstance(model.source, RandomModel):
                for key in ("tokenizer", "embeddings"):
                    other = getattr(model.source, key)
                    if other is not None:
                        self._defined("models", other, f"models.{name}.source.{key}")
        if NO_TRAINING in self.trainings:
            raise ValueError(f"trainings.{NO_TRAINING}: this name stands for no training at all; give it another")
        for name, training in self.trainings.items():
            self._defined_split(training.collection, training.split, f"trainings.{name}")
            self._defined("negatives", training.negatives, f"trainings.{name}.negatives")
            if training.teacher is not None:
                self._defined("teachers", training.teacher, f"trainings.{name}.teacher")
            self._check_start(name)
            if training.validation is not None:
                where = f"trainings.{name}.validation"
                self._defined_split(training.collection, training.validation.split, where)
                self._defined("retrievers", training.validation.retriever, f"{where}.retriever")
        self._check_lessons()
        for name, reranking in self.rerankings.items():
            self._defined("retrievers", reranking.retriever, f"rerankings.{name}.retriever")
        for name, fusion in self.fusions.items():
            self._check_fusion(f"fusions.{name}", fusion)
            self._check_rerankers(f"fusions.{name}", fusion.rerankers)
        for name, table in self.tables.items():
            where = f"tables.{name}"
            self._defined("rerankings", table.reranking, f"{where}.reranking")
            for number, test in enumerate(table.tests):
                for collection in test.collections:
                    self._defined_split(collection, test.split, f"{where}.tests[{number}]")
                if test.metric not in self.evaluation.metrics:
                    raise ValueError(
                        f"{where}.tests[{number}].metric: {test.metric!r} is not in evaluation.metrics "
                        f"({', '.join(self.evaluation.metrics)}); add it there"
                    )
            for number, rows in enumerate(table.sections):
                for retriever in rows.retrievers:
                    self._defined("retrievers", retriever, f"{where}.sections[{number}].retrievers")
                self._check_rerankers(f"{where}.sections[{number}]", rows.rerankers)
            self._check_fused_rows(where, table)
            self._check_baseline(where, table)
            if table.costs is not None and table.costs.speed is not None:
                self._defined_split(table.costs.speed.collection, table.costs.speed.split, f"{where}.costs.speed")
        for name, overview in self.overviews.items():
            where = f"overviews.{name}"
            if name in self.tables:
                raise ValueError(f"{where}: a table has this name too; give it another")
            for number, part in enumerate(overview.sections):
                if isinstance(part, ModelsSection):
                    for model_name in part.models:
                        self._defined("models", model_name, f"{where}.sections[{number}].models")
                elif isinstance(part, TrainingsSection):
                    self._check_rerankers(f"{where}.sections[{number}]", part.rerankers)
                    if any(row.training == NO_TRAINING for row in part.rerankers):
                        raise ValueError(
                            f"{where}.sections[{number}]: {NO_TRAINING!r} is no training to show; remove the row"
                        )
        return self

    def _check_rerankers(self, where: str, rows: Sequence[RerankerRow]) -> None:
        for number, row in enumerate(rows):
            self._check_row(f"{where}.rerankers[{number}]", row.model, row.training)

    def _check_row(self, where: str, model: str, training: str) -> None:
        self._defined("models", model, f"{where}.model")
        if training != NO_TRAINING:
            self._defined("trainings", training, f"{where}.training")
            return
        source = self.models[model].source
        if isinstance(source, RandomModel | PretrainedModel):
            raise ValueError(
                f"{where}.training: {NO_TRAINING!r} takes the checkpoint as it is, but {model!r} "
                f"(source.kind: {source.kind}) has no head that scores; name a training, or a "
                "trained reranker"
            )

    def _check_retriever(self, where: str, retriever: Retriever) -> None:
        if isinstance(retriever, Bm25):
            for collection in retriever.of_collections:
                self._defined("collections", collection, f"{where}.of_collections")
        elif isinstance(retriever, FileRetriever):
            for key in retriever.runs:
                collection, split = key.split("/")
                self._defined_split(collection, split, f"{where}.runs")
        elif isinstance(retriever, FusedRetriever):
            self._check_fusion(where, retriever)
            for name in retriever.retrievers:
                if isinstance(self.retrievers[name], FusedRetriever):
                    raise ValueError(f"{where}.retrievers: {name!r} is of kind fusion; name what it fuses")
        else:
            self._defined("encoders", retriever.encoder, f"{where}.encoder")
            if retriever.candidates is not None:
                self._defined("retrievers", retriever.candidates.retriever, f"{where}.candidates.retriever")
                if isinstance(self.retrievers[retriever.candidates.retriever], Dense | FusedRetriever):
                    raise ValueError(f"{where}.candidates.retriever: name one of kind bm25 or run")

    def _check_teacher(self, where: str, teacher: Teacher) -> None:
        self._defined("retrievers", teacher.retriever, f"{where}.retriever")
        for name, member in teacher.members.items():
            here = f"{where}.members.{name}"
            if isinstance(member, RunTeacher):
                self._defined("retrievers", member.retriever, f"{here}.retriever")
            elif isinstance(member, EncoderTeacher):
                self._defined("encoders", member.encoder, f"{here}.encoder")
            else:
                self._check_row(here, member.model, member.training)

    def _check_lessons(self) -> None:
        """No training learns, through others, from itself."""
        for first in self.trainings:
            waiting, seen = self._learns_from(first), set[str]()
            while waiting:
                name = waiting.pop()
                if name == first:
                    raise ValueError(f"trainings.{first}: it learns, through others, from itself; break the circle")
                if name not in seen and name in self.trainings:
                    seen.add(name)
                    waiting += self._learns_from(name)

    def _learns_from(self, training: str) -> list[str]:
        """The trainings whose checkpoints a training goes on from, or is taught by."""
        section = self.trainings[training]
        rerankers = self.teachers[section.teacher].rerankers if section.teacher is not None else []
        taught = [member.training for member in rerankers]
        return [*taught, *([section.start] if section.start is not None else [])]

    def _check_fusion(self, where: str, fusion: FusionMethod) -> None:
        for name in fusion.retrievers:
            self._defined("retrievers", name, f"{where}.retrievers")
        if isinstance(fusion.weights, FittedWeights) and fusion.weights.collection is not None:
            self._defined_split(fusion.weights.collection, fusion.weights.split, f"{where}.weights")

    def _check_fused_rows(self, where: str, table: Table) -> None:
        """Each fused row is of different runs, with the same seeds, and its weights are not fitted on a shown test."""
        labels: dict[str, str] = {}
        for number, section in enumerate(table.sections):
            tests = table.tests_of(section)
            for place, row in enumerate(section.rerankers):
                if row.fusion is None:
                    continue
                here = f"{where}.sections[{number}].rerankers[{place}]"
                self._defined("fusions", row.fusion, f"{here}.fusion")
                label = self.fusion_label(row.fusion)
                if labels.setdefault(label, row.fusion) != row.fusion:
                    raise ValueError(
                        f"{here}.fusion: {labels[label]!r} and {row.fusion!r} are both shown as {label!r}; give one of "
                        "them a label in fusions"
                    )
                fusion = self.fusions[row.fusion]
                for other in fusion.rerankers:
                    if (other.model, other.training) == (row.model, row.training):
                        raise ValueError(f"{here}.fusion: {row.fusion!r} fuses this reranker with itself; name another")
                    self._check_seeds(f"{here}.fusion", row.training, other.training)
                self._check_fitted(f"{here}.fusion", f"fusions.{row.fusion}.weights", fusion.weights, table, tests)
        for name in self._first_stages_of(table):
            retriever = self.retrievers[name]
            if isinstance(retriever, FusedRetriever):
                self._check_fitted(where, f"retrievers.{name}.weights", retriever.weights, table, table.tests)

    def _first_stages_of(self, table: Table) -> list[str]:
        """Names of the retrievers that rows of a table are, rerank or are fused with."""
        rows = [row for section in table.sections for row in section.rerankers]
        names = [name for section in table.sections for name in section.retrievers]
        names += [self.rerankings[table.reranking].retriever] if rows else []
        names += [name for row in rows if row.fusion is not None for name in self.fusions[row.fusion].retrievers]
        return list(dict.fromkeys(names))

    def _check_fitted(
        self, where: str, key: str, weights: list[float] | FittedWeights | None, table: Table, tests: list[TestSet]
    ) -> None:
        """Raises ValueError where weights for these tests are fitted on a test of the table, or on no split at all."""
        if not isinstance(weights, FittedWeights):
            return
        reported = {(collection, test.split) for test in table.tests for collection in test.collections}
        for collection in (collection for test in tests for collection in test.collections):
            fitted = weights.fitted_on(collection)
            self._defined_split(*fitted, key)
            if fitted in reported:
                raise ValueError(
                    f"{where}: {key} are fitted on {'/'.join(fitted)}, a test that this table reports; "
                    "name another split there"
                )

    def _check_seeds(self, where: str, training: str, other: str) -> None:
        if NO_TRAINING in (training, other):
            return
        missing = sorted(self._seeds(training) - self._seeds(other))
        if missing:
            raise ValueError(f"{where}: {other!r} is not run with seed {missing[0]}, as {training!r} is; add the seed")

    def _check_start(self, name: str) -> None:
        chain = [name]
        while (start := self.trainings[chain[-1]].start) is not None:
            where = f"trainings.{chain[-1]}.start"
            self._defined("trainings", start, where)
            if start in chain:
                raise ValueError(f"{where}: {' starts from '.join([*chain, start])}; break the circle")
            missing = sorted(self._seeds(chain[-1]) - self._seeds(start))
            if missing:
                raise ValueError(f"{where}: {start!r} is not run with seed {missing[0]}; add it to its seeds")
            chain.append(start)

    def _seeds(self, training: str) -> set[int]:
        section = self.trainings[training]
        return set(section.seeds or [section.seed])

    def _check_baseline(self, where: str, table: Table) -> None:
        baseline = table.significance.baseline if table.significance else None
        if baseline is None:
            return
        where = f"{where}.significance.baseline"
        if baseline.retriever is not None:
            self._defined("retrievers", baseline.retriever, where)
        else:
            self._check_row(where, str(baseline.model), str(baseline.training))
        if baseline.fusion is not None:
            self._defined("fusions", baseline.fusion, where)
        if table.baseline_row is None:
            raise ValueError(f"{where}: no row of the table is this one; name a row of the table")

    def defined_table(self, name: str) -> Table:
        """The section of a table; raises ValueError with a near name where there is none."""
        self._defined("tables", name, "table")
        return self.tables[name]

    def _defined(self, section: str, name: str, where: str) -> None:
        known = getattr(self, section)
        if name not in known:
            raise ValueError(f"{where}: {name!r} is not defined in section {section}{suggest(name, known)}")

    def _defined_split(self, collection: str, split: str, where: str) -> None:
        self._defined("collections", collection, f"{where}.collection")
        splits = self.collections[collection].splits
        if split not in splits:
            raise ValueError(
                f"{where}.split: {split!r} is no split of collection {collection!r}{suggest(split, splits)}"
            )

    def seeded(self, training: str) -> list[str]:
        """The names of a training's runs, one for each seed.

        The seed that its key `seed` names has the training's own name, so that further seeds leave what is there as
        it is; another seed N has TRAINING@seedN. No training has no seeds.
        """
        if training == NO_TRAINING:
            return [NO_TRAINING]
        section = self.trainings[training]
        return [
            training if seed == section.seed else f"{training}{SEED_SIGN}{seed}"
            for seed in section.seeds or [section.seed]
        ]

    def training(self, name: str) -> Training:
        """The section of a training, or of one of its seeds (`seeded`), with that seed."""
        training, sign, seed = name.partition(SEED_SIGN)
        values = self.trainings[training].model_dump(exclude={"seeds"})
        return Training(**(values | ({"seed": int(seed)} if sign else {})))

    def fused_names(self, fusion: FusionMethod) -> list[str]:
        """Labels of the runs that a fusion names, in the order of their weights."""
        rerankers = fusion.rerankers if isinstance(fusion, Fusion) else []
        return [
            *(self.retrievers[name].label for name in fusion.retrievers),
            *(self.models[row.model].label for row in rerankers),
        ]

    def fusion_label(self, name: str) -> str:
        """What tables add to a reranker's name."""
        fusion = self.fusions[name]
        return fusion.label or f"+ {' + '.join(self.fused_names(fusion))}"

    def with_seed_of(self, training: str, other: str) -> str:
        """The run (`seeded`) of training `other` that has the seed of this run of a training; no training has none."""
        if NO_TRAINING in (training, other):
            return self.seeded(other)[0]
        seed = self.training(training).seed
        return other if self.trainings[other].seed == seed else f"{other}{SEED_SIGN}{seed}"

    def start(self, name: str) -> str | None:
        """The training, or one of its seeds, that a training, or one of its seeds, goes on from; None: the model."""
        section = self.training(name)
        if section.start is None:
            return None
        return self.with_seed_of(name, section.start)

    def published_model(self, pretraining: str, model: str) -> str:
        """The name in section models of a pretrained model."""
        wanted = PretrainedModel(kind="pretrained", pretraining=pretraining, model=model)
        return next(name for name, entry in self.models.items() if entry.source == wanted)


def read_params(*paths: str | Path) -> Params:
    """Reads params.yaml and overlays with the same keys; later files win, key by key."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_sections(path))
    return check(Params, merged, " + ".join(str(path) for path in paths))
