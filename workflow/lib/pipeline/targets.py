"""The files that an experiment needs: its tables and everything that they are made from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

from pipeline.items import (
    Embedded,
    FirstStage,
    Fused,
    Index,
    Pretrained,
    Reranked,
    Sample,
    Taught,
    Trained,
    VectorIndex,
    once,
)
from pipeline.lookups import Lookups
from pipeline.paths import checkpoint_of
from ssmrank import jobs
from ssmrank.config.comparison_settings import MOST_RUNS
from ssmrank.config.trainings import NO_TRAINING, SEED_SIGN


class Targets:
    """What the experiment needs, without duplicates; each list is computed when it is first asked for."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups, self._params = lookups, lookups.params

    # ---------------------------------------------------------------- tables and figures

    @cached_property
    def tables(self) -> list[str]:
        """Names of the tables of results."""
        return list(self._params.tables)

    @cached_property
    def overviews(self) -> list[str]:
        """Names of the tables of models and of trainings."""
        return list(self._params.overviews)

    @cached_property
    def tested_tables(self) -> list[str]:
        """Names of the tables whose rows are compared by tests of significance."""
        return [name for name, table in self._params.tables.items() if table.significance is not None]

    @cached_property
    def compared_tables(self) -> list[str]:
        """Names of the tables with at least two rows of retrievers or rerankers."""
        return [
            name
            for name, table in self._params.tables.items()
            if sum(len(section.retrievers) + len(section.rerankers) for section in table.sections) > 1
        ]

    @cached_property
    def reranking_tables(self) -> list[str]:
        """Names of the tables with rerankers."""
        return [name for name, table in self._params.tables.items() if any(one.rerankers for one in table.sections)]

    @cached_property
    def comparisons(self) -> list[str]:
        """TABLE/COLLECTION/SPLIT of each test of a table on which ranx can compare its runs."""
        tests = once(
            (name, f"{collection}/{test.split}")
            for name, table in self._params.tables.items()
            for test in table.tests
            for collection in test.collections
        )
        return [f"{name}/{test}" for name, test in tests if self._is_comparable(name, test)]

    def _is_comparable(self, table: str, test: str) -> bool:
        runs = jobs.compared_runs(self._params, table, test)
        return 1 < len(runs) <= MOST_RUNS and bool(jobs.compared_metrics(self._params, table, test))

    @cached_property
    def numbered_tables(self) -> list[str]:
        """Names of all tables, sorted by the number at their end; with overviews, tables 5 and 6 of the paper too."""
        measured = ["table5", "table6"] if self.overviews else []
        names = [*self.overviews, *self.tables, *measured]
        return sorted(names, key=lambda name: (int("".join(re.findall(r"[0-9]+$", name)) or 0), name))

    @cached_property
    def timed(self) -> list[str]:
        """Files of the speeds that tables show among their costs."""
        rows = [row for table in self.tables for row in self._lookups.cost_rows(table)]
        return list(dict.fromkeys(row.speed for row in rows if row.speed is not None))

    @cached_property
    def training_names(self) -> list[str]:
        """Names of the trainings in use, without seeds."""
        return list(dict.fromkeys(name.partition(SEED_SIGN)[0] for name, _ in self.trained))

    def trained_by(self, training: str) -> list[Trained]:
        """Checkpoints of a training, of all its seeds."""
        return [one for one in self.trained if one.training.partition(SEED_SIGN)[0] == training]

    def curve_labels(self, training: str) -> list[tuple[str, str]]:
        """Label and folder of each of these checkpoints, for `ssmrank figure curves`."""
        labels = []
        for name, model in self.trained_by(training):
            seed = name.partition(SEED_SIGN)[2]
            label = self._params.models[model].label + (f", seed {seed}" if seed else "")
            labels.append((label, checkpoint_of(name, model)))
        return labels

    # ---------------------------------------------------------------- runs

    @cached_property
    def evaluated_first_stages(self) -> list[FirstStage]:
        """First-stage runs that are rows of a table."""
        return once(
            FirstStage(collection, test.split, retriever)
            for table in self._params.tables.values()
            for section in table.sections
            for retriever in section.retrievers
            for test in table.tests_of(section)
            for collection in test.collections
        )

    @cached_property
    def evaluated_reranked(self) -> list[Reranked]:
        """Reranked runs that are rows of a table as they are."""
        return once(run for run, fusion in self._reranker_rows() if fusion is None)

    @cached_property
    def fused(self) -> list[Fused]:
        """Fused runs that are rows of a table."""
        return once(Fused(*run, fusion) for run, fusion in self._reranker_rows() if fusion is not None)

    def _reranker_rows(self) -> Iterator[tuple[Reranked, str | None]]:
        return (
            (Reranked(collection, test.split, table.reranking, training, row.model), row.fusion)
            for table in self._params.tables.values()
            for section in table.sections
            for row in section.rerankers
            for training in self._params.seeded(row.training)
            for test in table.tests_of(section)
            for collection in test.collections
        )

    @cached_property
    def _fused_and_fitted(self) -> list[Fused]:
        return once(one for run in self.fused for one in (run, *self._lookups.fitted(run)))

    @cached_property
    def reranked(self) -> list[Reranked]:
        """Reranked runs that are rows of a table, are fused, or are needed to fit weights of a fusion."""
        fused = (run for one in self._fused_and_fitted for run in self._lookups.fused_rerankers(one))
        return once([*self.evaluated_reranked, *fused])

    @cached_property
    def first_stages(self) -> list[FirstStage]:
        """First-stage runs that a table, a reranking, a training or another first-stage run needs."""
        lookups = self._lookups
        wanted = once(
            [
                *self._shown_first_stages,
                *(lookups.sampled_run(*sample) for sample in self.samples),
                *(run for sample in self.samples for run in lookups.rivals(*sample)),
                *(run for taught in self.taught for run in lookups.teaching_runs(taught)),
                *(run for training, _ in self.trained for run in lookups.validation(training)),
            ]
        )
        return self._with_what_they_need(wanted)

    @property
    def _shown_first_stages(self) -> list[FirstStage]:
        """First-stage runs that a table or a reranking needs, without those that trainings need."""
        lookups = self._lookups
        return once(
            [
                *self.evaluated_first_stages,
                *(lookups.first_stage(run) for run in self.reranked),
                *(first for run in self._fused_and_fitted for first in lookups.fused_retrievers(run)),
            ]
        )

    def _with_what_they_need(self, runs: list[FirstStage]) -> list[FirstStage]:
        """The runs, and those that they are fused from or take candidates from."""
        lookups, wanted = self._lookups, list(runs)
        # The list grows while it is read: what is found may have needs of its own.
        for run in wanted:
            fused = [
                first for one in (run, *lookups.fitted_first_stage(run)) for first in lookups.fused_first_stages(one)
            ]
            wanted += [first for first in once([*lookups.candidates(run), *fused]) if first not in wanted]
        return wanted

    # ---------------------------------------------------------------- trainings

    @cached_property
    def trained(self) -> list[Trained]:
        """Checkpoints that a table needs, and the checkpoints that these start from or learn from."""
        reranking = [Trained(run.training, run.model) for run in self.reranked if run.training != NO_TRAINING]
        wanted = once([*reranking, *self._retrieving(self._shown_first_stages)])
        # The list grows while it is read: what is found may have needs of its own.
        for training, model in wanted:
            start = self._params.start(training)
            found = [Trained(start, model)] if start is not None else []
            found += [one for taught in self._lookups.taught(training) for one in self._teaching_rerankers(taught)]
            found += self._retrieving(self._first_stages_of(training))
            wanted += [one for one in once(found) if one not in wanted]
        return wanted

    def _first_stages_of(self, training: str) -> list[FirstStage]:
        """First-stage runs that a training reads, or that its negatives and its teacher are made from."""
        lookups, sample = self._lookups, self._lookups.training_data(training)
        taught = [run for one in lookups.taught(training) for run in lookups.teaching_runs(one)]
        return [lookups.sampled_run(*sample), *lookups.rivals(*sample), *taught, *lookups.validation(training)]

    def _retrieving(self, runs: list[FirstStage]) -> list[Trained]:
        """Checkpoints that first-stage runs are retrieved with."""
        needed = self._with_what_they_need(runs)
        return [one for run in needed for one in self._lookups.trained_encoder(run.retriever)]

    def _teaching_rerankers(self, taught: Taught) -> list[Trained]:
        """Checkpoints of trainings that are members of a teacher."""
        rerankers = self._params.teachers[taught.teacher].rerankers
        return [Trained(one.training, one.model) for one in rerankers if one.training != NO_TRAINING]

    @cached_property
    def taught(self) -> list[Taught]:
        """Negatives with a teacher's scores that the trainings need."""
        return once(taught for training, _ in self.trained for taught in self._lookups.taught(training))

    @cached_property
    def samples(self) -> list[Sample]:
        """Negatives that the trainings need."""
        return once(self._lookups.training_data(training) for training, _ in self.trained)

    # ---------------------------------------------------------------- what first stages search

    @cached_property
    def indexes(self) -> list[Index]:
        """Indexes that first-stage runs need."""
        bm25 = self._lookups.retrievers("bm25")
        runs = (run for run in self.first_stages if run.retriever in bm25)
        return once(self._lookups.index(run.retriever, run.collection) for run in runs)

    @cached_property
    def embedded(self) -> list[Embedded]:
        """Vectors that first-stage runs and teachers need."""
        searched = [item for run in self.first_stages for item in self._lookups.vectors(run.retriever, run.collection)]
        teachers = [(taught.collection, self._params.teachers[taught.teacher]) for taught in self.taught]
        taught = [Embedded(collection, one.encoder) for collection, teacher in teachers for one in teacher.encoders]
        return once([*searched, *taught])

    @cached_property
    def vector_indexes(self) -> list[VectorIndex]:
        """Approximate indexes that first-stage runs need."""
        runs = self.first_stages
        return once(item for run in runs for item in self._lookups.vector_index(run.retriever, run.collection))

    # ---------------------------------------------------------------- collections and models

    @cached_property
    def collections(self) -> list[str]:
        """Names of the collections in use."""
        used = [run.collection for run in self.first_stages]
        return list(dict.fromkeys([*used, *(text for name in used for text in self._lookups.texts_of(name))]))

    @cached_property
    def models(self) -> list[str]:
        """Names of the models in use: rerankers, encoders, and models whose tokenizer or embeddings others use."""
        names = [model for _, model in self.trained] + [run.model for run in self.reranked]
        dense = [run.retriever for run in self.first_stages if run.retriever in self._lookups.retrievers("dense")]
        encoders = [self._params.encoder(self._lookups.encoder(retriever)).model for retriever in dense]
        for teacher in (self._params.teachers[taught.teacher] for taught in self.taught):
            encoders += [self._params.encoders[one.encoder].model for one in teacher.encoders]
            encoders += [one.model for one in teacher.rerankers]
        shown = [model for name in self.overviews for model in self._lookups.overview_models(name)]
        names = list(dict.fromkeys([*names, *encoders, *shown]))
        for name in names:
            names.extend(parent for parent in self._lookups.parent_models(name).values() if parent not in names)
        return names

    @cached_property
    def pretrained(self) -> list[Pretrained]:
        """Language models that are pretrained."""
        return [one for name in self._params.pretraining for one in self._lookups.pretrained_by(name)]
