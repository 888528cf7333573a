"""Checks that the names by which sections of params.yaml refer to one another are defined and fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssmrank.config.collections import CorpusQueries, TitlesCollection
from ssmrank.config.fusions import FittedWeights, FusionMethod
from ssmrank.config.models import ONLY_DECODERS, TWICE, CrossEncoderModel, PretrainedModel, RandomModel
from ssmrank.config.overviews import ModelsSection, TrainingsSection
from ssmrank.config.retrievers import Bm25, Dense, FileRetriever, FusedRetriever, Retriever
from ssmrank.config.section import suggest
from ssmrank.config.tables import Table, TestSet
from ssmrank.config.teachers import EncoderTeacher, RunTeacher, Teacher
from ssmrank.config.trainings import NO_TRAINING, RerankerRow

if TYPE_CHECKING:
    from ssmrank.config.params import Params


class References:
    """Checks of a whole params.yaml; each raises ValueError that names the wrong key and says what to do."""

    def __init__(self, params: Params) -> None:
        self._params = params

    def check(self) -> None:
        """Checks every section."""
        self._check_pretraining()
        self._check_collections()
        self._check_first_stages()
        self._check_models()
        self._check_trainings()
        self._check_rerankings()
        self._check_tables()
        self._check_overviews()

    def defined(self, section: str, name: str, where: str) -> None:
        """Raises ValueError unless the section has this name."""
        known = getattr(self._params, section)
        if name not in known:
            raise ValueError(f"{where}: {name!r} is not defined in section {section}{suggest(name, known)}")

    def defined_split(self, collection: str, split: str, where: str) -> None:
        """Raises ValueError unless the collection is defined and has this split."""
        self.defined("collections", collection, f"{where}.collection")
        splits = self._params.collections[collection].splits
        if split not in splits:
            raise ValueError(
                f"{where}.split: {split!r} is not a split of collection {collection!r}{suggest(split, splits)}"
            )

    def _check_pretraining(self) -> None:
        for name, pretraining in self._params.pretraining.items():
            self.defined("corpora", pretraining.corpus, f"pretraining.{name}.corpus")
            if pretraining.published is not None:
                self.defined("trainings", pretraining.published, f"pretraining.{name}.published")
                sources = [entry.source for entry in self._params.models.values()]
                for made in pretraining.models:
                    if PretrainedModel(kind="pretrained", pretraining=name, model=made) not in sources:
                        raise ValueError(
                            f"pretraining.{name}.published: no entry of models has source {{kind: pretrained, "
                            f"pretraining: {name}, model: {made}}}; add one"
                        )

    def _check_collections(self) -> None:
        for name, source in ((name, collection.source) for name, collection in self._params.collections.items()):
            if isinstance(source, TitlesCollection | CorpusQueries) and source.corpus is not None:
                self.defined("corpora", source.corpus, f"collections.{name}.source.corpus")
            if isinstance(source, CorpusQueries) and source.collection is not None:
                where = f"collections.{name}.source.collection"
                self.defined("collections", source.collection, where)
                if isinstance(self._params.collections[source.collection].source, CorpusQueries):
                    raise ValueError(f"{where}: {source.collection!r} is itself made from texts; name those")

    def _check_first_stages(self) -> None:
        for name, negatives in self._params.negatives.items():
            self.defined("retrievers", negatives.retriever, f"negatives.{name}.retriever")
            if negatives.false_negatives is not None:
                where = f"negatives.{name}.false_negatives.retriever"
                self.defined("retrievers", negatives.false_negatives.retriever, where)
        for name, teacher in self._params.teachers.items():
            self._check_teacher(f"teachers.{name}", teacher)
        for name, encoder in self._params.encoders.items():
            self.defined("models", encoder.model, f"encoders.{name}.model")
        for name, section in self._params.retrievers.items():
            self._check_retriever(f"retrievers.{name}", section)

    def _check_models(self) -> None:
        for name, model in self._params.models.items():
            if isinstance(model.source, PretrainedModel):
                where = f"models.{name}.source"
                self.defined("pretraining", model.source.pretraining, f"{where}.pretraining")
                known = self._params.pretraining[model.source.pretraining].models
                if model.source.model not in known:
                    raise ValueError(
                        f"{where}.model: {model.source.model!r} is not in pretraining.{model.source.pretraining}.models"
                        f"{suggest(model.source.model, known)}"
                    )
            if isinstance(model.source, RandomModel):
                for key in ("tokenizer", "embeddings"):
                    other = getattr(model.source, key)
                    if other is not None:
                        self.defined("models", other, f"models.{name}.source.{key}")

    def _check_trainings(self) -> None:
        if NO_TRAINING in self._params.trainings:
            raise ValueError(f"trainings.{NO_TRAINING}: this name means no training; choose another")
        for name, training in self._params.trainings.items():
            self.defined_split(training.collection, training.split, f"trainings.{name}")
            self.defined("negatives", training.negatives, f"trainings.{name}.negatives")
            if training.teacher is not None:
                self.defined("teachers", training.teacher, f"trainings.{name}.teacher")
            self._check_start(name)
            if training.validation is not None:
                where = f"trainings.{name}.validation"
                self.defined_split(training.collection, training.validation.split, where)
                self.defined("retrievers", training.validation.retriever, f"{where}.retriever")
        self._check_circles_of_teachers()

    def _check_rerankings(self) -> None:
        for name, reranking in self._params.rerankings.items():
            self.defined("retrievers", reranking.retriever, f"rerankings.{name}.retriever")
        for name, fusion in self._params.fusions.items():
            self._check_fusion(f"fusions.{name}", fusion)
            self._check_rerankers(f"fusions.{name}", fusion.rerankers)

    def _check_tables(self) -> None:
        for name, table in self._params.tables.items():
            self._check_table(f"tables.{name}", table)

    def _check_table(self, where: str, table: Table) -> None:
        self.defined("rerankings", table.reranking, f"{where}.reranking")
        for number, test in enumerate(table.tests):
            for collection in test.collections:
                self.defined_split(collection, test.split, f"{where}.tests[{number}]")
            if test.metric not in self._params.evaluation.metrics:
                raise ValueError(
                    f"{where}.tests[{number}].metric: {test.metric!r} is not in evaluation.metrics "
                    f"({', '.join(self._params.evaluation.metrics)}); add it there"
                )
        for number, rows in enumerate(table.sections):
            for retriever in rows.retrievers:
                self.defined("retrievers", retriever, f"{where}.sections[{number}].retrievers")
            self._check_rerankers(f"{where}.sections[{number}]", rows.rerankers)
        self._check_fused_rows(where, table)
        self._check_baseline(where, table)
        if table.costs is not None and table.costs.speed is not None:
            self.defined_split(table.costs.speed.collection, table.costs.speed.split, f"{where}.costs.speed")

    def _check_overviews(self) -> None:
        for name, overview in self._params.overviews.items():
            where = f"overviews.{name}"
            if name in self._params.tables:
                raise ValueError(f"{where}: a table has this name too; give it another")
            for number, part in enumerate(overview.sections):
                if isinstance(part, ModelsSection):
                    for model_name in part.models:
                        self.defined("models", model_name, f"{where}.sections[{number}].models")
                elif isinstance(part, TrainingsSection):
                    self._check_rerankers(f"{where}.sections[{number}]", part.rerankers)
                    if any(row.training == NO_TRAINING for row in part.rerankers):
                        raise ValueError(
                            f"{where}.sections[{number}]: {NO_TRAINING!r} means no training; remove the row"
                        )

    def _check_rerankers(self, where: str, rows: Sequence[RerankerRow]) -> None:
        for number, row in enumerate(rows):
            self._check_row(f"{where}.rerankers[{number}]", row.model, row.training)

    def _check_row(self, where: str, model: str, training: str) -> None:
        self.defined("models", model, f"{where}.model")
        if training != NO_TRAINING:
            self.defined("trainings", training, f"{where}.training")
            if self._params.trainings[training].bi_encoder is not None:
                raise ValueError(
                    f"{where}.training: {training!r} trains a bi-encoder, which does not rerank; name it in "
                    "retrievers.NAME.trained, and a training without bi_encoder here"
                )
            self._check_order(f"{where}.training", model, training)
            return
        source = self._params.models[model].source
        if isinstance(source, RandomModel | PretrainedModel):
            raise ValueError(
                f"{where}.training: {NO_TRAINING!r} takes the checkpoint as it is, but {model!r} "
                f"(source.kind: {source.kind}) has no head that scores; name a training, or a "
                "trained reranker"
            )

    def _check_order(self, where: str, model: str, training: str) -> None:
        order, section = self._params.trainings[training].template, self._params.models[model]
        if order is not None and isinstance(section.source, CrossEncoderModel):
            raise ValueError(f"{where}: {training!r} has a template, but cross-encoder {model!r} keeps its own input")
        if order == TWICE and section.kind != "D":
            raise ValueError(
                f"{where}: {training!r} has template {order}, but {model!r} is of kind {section.kind}: {ONLY_DECODERS}"
            )

    def _check_retriever(self, where: str, retriever: Retriever) -> None:
        if isinstance(retriever, Bm25):
            for collection in retriever.of_collections:
                self.defined("collections", collection, f"{where}.of_collections")
        elif isinstance(retriever, FileRetriever):
            for key in retriever.runs:
                collection, split = key.split("/")
                self.defined_split(collection, split, f"{where}.runs")
        elif isinstance(retriever, FusedRetriever):
            self._check_fusion(where, retriever)
            for name in retriever.retrievers:
                if isinstance(self._params.retrievers[name], FusedRetriever):
                    raise ValueError(f"{where}.retrievers: {name!r} is of kind fusion; name what it fuses")
        else:
            self._check_encoder(where, retriever)
            if retriever.candidates is not None:
                self.defined("retrievers", retriever.candidates.retriever, f"{where}.candidates.retriever")
                if isinstance(self._params.retrievers[retriever.candidates.retriever], Dense | FusedRetriever):
                    raise ValueError(f"{where}.candidates.retriever: name one of kind bm25 or run")

    def _check_encoder(self, where: str, retriever: Dense) -> None:
        if retriever.encoder is not None:
            self.defined("encoders", retriever.encoder, f"{where}.encoder")
        if retriever.trained is not None:
            self.defined("models", retriever.trained.model, f"{where}.trained.model")
            training = retriever.trained.training
            self.defined("trainings", training, f"{where}.trained.training")
            if self._params.trainings[training].bi_encoder is None:
                raise ValueError(
                    f"{where}.trained.training: {training!r} trains a reranker; name a training with bi_encoder"
                )

    def _check_teacher(self, where: str, teacher: Teacher) -> None:
        self.defined("retrievers", teacher.retriever, f"{where}.retriever")
        for name, member in teacher.members.items():
            here = f"{where}.members.{name}"
            if isinstance(member, RunTeacher):
                self.defined("retrievers", member.retriever, f"{here}.retriever")
            elif isinstance(member, EncoderTeacher):
                self.defined("encoders", member.encoder, f"{here}.encoder")
            else:
                self._check_row(here, member.model, member.training)

    def _check_circles_of_teachers(self) -> None:
        """Raises ValueError if a training learns from itself through others."""
        for first in self._params.trainings:
            waiting, seen = self._learns_from(first), set[str]()
            while waiting:
                name = waiting.pop()
                if name == first:
                    raise ValueError(f"trainings.{first}: it learns from itself through others; break the circle")
                if name not in seen and name in self._params.trainings:
                    seen.add(name)
                    waiting += self._learns_from(name)

    def _learns_from(self, training: str) -> list[str]:
        """The trainings whose checkpoints a training starts from or is taught by."""
        section = self._params.trainings[training]
        retrievers = [*self._sampled(section.negatives)]
        taught = []
        if section.teacher is not None:
            teacher = self._params.teachers[section.teacher]
            taught = [member.training for member in teacher.rerankers]
            retrievers += [teacher.retriever, *(member.retriever for member in teacher.runs)]
        if section.validation is not None:
            retrievers.append(section.validation.retriever)
        trained = [training for name in retrievers for training in self._trained(name)]
        return [*taught, *trained, *([section.start] if section.start is not None else [])]

    def _sampled(self, negatives: str) -> list[str]:
        """The retrievers that negatives come from."""
        section = self._params.negatives[negatives]
        rivals = section.false_negatives
        return [section.retriever, *([rivals.retriever] if rivals is not None else [])]

    def _trained(self, retriever: str) -> list[str]:
        """The trainings whose bi-encoders a retriever uses."""
        section = self._params.retrievers[retriever]
        if isinstance(section, FusedRetriever):
            return [training for name in section.retrievers for training in self._trained(name)]
        trained = isinstance(section, Dense) and section.trained
        return [trained.training] if trained else []

    def _check_fusion(self, where: str, fusion: FusionMethod) -> None:
        for name in fusion.retrievers:
            self.defined("retrievers", name, f"{where}.retrievers")
        if isinstance(fusion.weights, FittedWeights) and fusion.weights.collection is not None:
            self.defined_split(fusion.weights.collection, fusion.weights.split, f"{where}.weights")

    def _check_fused_rows(self, where: str, table: Table) -> None:
        """Checks fused rows.

        Raises ValueError if two fusions have one label, a row is fused with itself, a fused training lacks a seed of
        the row, or weights are fitted on a test that the table shows.
        """
        labels: dict[str, str] = {}
        for number, section in enumerate(table.sections):
            tests = table.tests_of(section)
            for place, row in enumerate(section.rerankers):
                if row.fusion is None:
                    continue
                here = f"{where}.sections[{number}].rerankers[{place}]"
                self.defined("fusions", row.fusion, f"{here}.fusion")
                label = self._params.fusion_label(row.fusion)
                if labels.setdefault(label, row.fusion) != row.fusion:
                    raise ValueError(
                        f"{here}.fusion: {labels[label]!r} and {row.fusion!r} are both shown as {label!r}; give one of "
                        "them a label in fusions"
                    )
                fusion = self._params.fusions[row.fusion]
                for other in fusion.rerankers:
                    if (other.model, other.training) == (row.model, row.training):
                        raise ValueError(
                            f"{here}.fusion: {row.fusion!r} fuses the reranker with itself; name another reranker"
                        )
                    self._check_seeds(f"{here}.fusion", row.training, other.training)
                self._check_fitted(f"{here}.fusion", f"fusions.{row.fusion}.weights", fusion.weights, table, tests)
        for name in self._first_stages_of(table):
            retriever = self._params.retrievers[name]
            if isinstance(retriever, FusedRetriever):
                self._check_fitted(where, f"retrievers.{name}.weights", retriever.weights, table, table.tests)

    def _first_stages_of(self, table: Table) -> list[str]:
        """The retrievers of a table: its own rows, those that are reranked and those that rows are fused with."""
        rows = [row for section in table.sections for row in section.rerankers]
        names = [name for section in table.sections for name in section.retrievers]
        names += [self._params.rerankings[table.reranking].retriever] if rows else []
        names += [
            name for row in rows if row.fusion is not None for name in self._params.fusions[row.fusion].retrievers
        ]
        return list(dict.fromkeys(names))

    def _check_fitted(
        self, where: str, key: str, weights: list[float] | FittedWeights | None, table: Table, tests: list[TestSet]
    ) -> None:
        """Raises ValueError if weights for these tests are fitted on a test of the table or on an undefined split."""
        if not isinstance(weights, FittedWeights):
            return
        reported = {(collection, test.split) for test in table.tests for collection in test.collections}
        for collection in (collection for test in tests for collection in test.collections):
            fitted = weights.fitted_on(collection)
            self.defined_split(*fitted, key)
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
        while (start := self._params.trainings[chain[-1]].start) is not None:
            where = f"trainings.{chain[-1]}.start"
            self.defined("trainings", start, where)
            if start in chain:
                raise ValueError(f"{where}: {' starts from '.join([*chain, start])}; break the circle")
            missing = sorted(self._seeds(chain[-1]) - self._seeds(start))
            if missing:
                raise ValueError(f"{where}: {start!r} is not run with seed {missing[0]}; add it to its seeds")
            chain.append(start)

    def _seeds(self, training: str) -> set[int]:
        section = self._params.trainings[training]
        return set(section.seeds or [section.seed])

    def _check_baseline(self, where: str, table: Table) -> None:
        baseline = table.significance.baseline if table.significance else None
        if baseline is None:
            return
        where = f"{where}.significance.baseline"
        if baseline.retriever is not None:
            self.defined("retrievers", baseline.retriever, where)
        else:
            self._check_row(where, str(baseline.model), str(baseline.training))
        if baseline.fusion is not None:
            self.defined("fusions", baseline.fusion, where)
        if table.baseline_row is None:
            raise ValueError(f"{where}: it is not a row of the table; name a row of the table")
