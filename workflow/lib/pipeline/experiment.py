"""Which files an experiment needs, and the settings that each job is handed.

Settings are JSON with sorted keys and every default written out. What only tables print (labels, sizes, titles) is
replaced by the section's name, so that a new label does not train a model again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from pipeline.architectures import check_architecture
from pipeline.package import INSTALLED_RELEASE
from ssmrank.config.collections import CollectionSource, CorpusQueries, FolderCollection, TitlesCollection
from ssmrank.config.fusions import FittedWeights, FuseSettings, FuseWeightsSettings, FusionMethod
from ssmrank.config.models import ModelFolder, PretrainedModel, RandomModel
from ssmrank.config.overview_settings import overview_settings
from ssmrank.config.overviews import ModelsOverview
from ssmrank.config.params import Params, read_params
from ssmrank.config.pretraining import CardScores
from ssmrank.config.reading import check, read_sections
from ssmrank.config.retrievers import Bm25, Dense, FileRetriever, FusedRetriever
from ssmrank.config.table_settings import significance_settings, table_settings
from ssmrank.config.teachers import EncoderTeacher, RunTeacher
from ssmrank.config.trainings import NO_TRAINING, SEED_SIGN
from ssmrank.errors import UserError, one_line
from ssmrank.io.model_files import model_files, wanted_files
from ssmrank.io.plain import check_plain


class Index(NamedTuple):
    """An index."""

    collection: str
    stemmer: str


class Embedded(NamedTuple):
    """Vectors of a collection's documents."""

    collection: str
    encoder: str


class VectorIndex(NamedTuple):
    """An approximate index of such vectors."""

    collection: str
    retriever: str


class FirstStage(NamedTuple):
    """A first-stage run."""

    collection: str
    split: str
    retriever: str


class Sample(NamedTuple):
    """Negatives for the queries of a split."""

    collection: str
    split: str
    negatives: str


class Taught(NamedTuple):
    """Such negatives with a teacher's scores."""

    collection: str
    split: str
    negatives: str
    teacher: str


class Trained(NamedTuple):
    """A checkpoint; `training` names the seed where it is not the training's own."""

    training: str
    model: str


class Reranked(NamedTuple):
    """A reranked run."""

    collection: str
    split: str
    reranking: str
    training: str
    model: str


class Fused(NamedTuple):
    """A reranked run that is fused with others."""

    collection: str
    split: str
    reranking: str
    training: str
    model: str
    fusion: str


class Pretrained(NamedTuple):
    """A pretrained language model."""

    pretraining: str
    model: str


T = TypeVar("T", bound=tuple)

FIRST_STAGE_RUN = "results/runs/first-stage/{collection}/{split}/{retriever}.trec"
RERANKED_RUN = "results/runs/reranked/{collection}/{split}/{reranking}/{training}/{model}.trec"

_TRAINED_FILE = "reranker.json"
"""`ssmrank.models.reranker.TRAINED_FILE`, which takes seconds to import."""


def fill(pattern: str, items: Iterable[tuple]) -> list[str]:
    """The pattern filled from each named tuple."""
    return [pattern.format(**item._asdict()) for item in items]  # type: ignore[attr-defined]


def any_of(names: Iterable[str]) -> str:
    """A regular expression for one of the names; nothing matches that of none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def check_file(path: str) -> None:
    """Exits with one line on standard error unless the file is an experiment; Snakemake's own message names no line."""
    try:
        read_params(path)
    except UserError as error:
        raise SystemExit(f"ssmrank: error: {one_line(error)}") from None


def read_experiment(values: Mapping[str, Any], files: Iterable[str | Path]) -> Experiment:
    """Checks what Snakemake merged from the files; exits with one line on standard error if it is wrong."""
    values = {name: value for name, value in values.items() if name != INSTALLED_RELEASE}
    names = list(dict.fromkeys(os.path.relpath(file) for file in files))
    try:
        for name in names[1:]:  # params.yaml has been read by check_file
            read_sections(name)
        check_plain(values, " + ".join(names))
        experiment = Experiment(check(Params, json.loads(json.dumps(values)), " + ".join(names)), names)
        experiment.check_runs(" + ".join(names))
        experiment.check_untrained(" + ".join(names))
        for model in experiment.models():
            check_architecture(model, experiment.params.models[model])
        return experiment
    except UserError as error:
        raise SystemExit(f"ssmrank: error: {one_line(error)}") from None


def read_files(*files: str) -> Experiment:
    """The experiment of params.yaml and overlays, for scripts; exits with one line on standard error if it is wrong."""
    try:
        return Experiment(read_params(*files), files)
    except UserError as error:
        raise SystemExit(f"ssmrank: error: {error}") from None


class Experiment:
    """Answers the rules' questions about checked settings."""

    def __init__(self, params: Params, files: Sequence[str] = ()) -> None:
        self.params, self.files = params, files

    def check_runs(self, where: str) -> None:
        """Raises UserError where a first-stage run is needed that its retriever has no file for."""
        for collection, split, name in self.first_stages():
            retriever = self.params.retrievers[name]
            if split not in self.params.collections[collection].splits:
                raise UserError(
                    f"{where}: retrievers.{name}.weights.split: collection {collection!r} has no split {split!r}; name "
                    "one of its own, or a collection"
                )
            if isinstance(retriever, FileRetriever) and f"{collection}/{split}" not in retriever.runs:
                raise UserError(
                    f"{where}: retrievers.{name}.runs: no file for {collection}/{split}, which a table or training "
                    f"needs, only for {', '.join(retriever.runs)}; add it"
                )

    def check_untrained(self, where: str) -> None:
        """Raises UserError where a folder that is reranked with as it is holds no trained reranker."""
        for name in dict.fromkeys(run.model for run in self.reranked() if run.training == NO_TRAINING):
            source = self.params.models[name].source
            if isinstance(source, ModelFolder) and not Path(source.path, _TRAINED_FILE).is_file():
                raise UserError(
                    f"{where}: models.{name}.source.path: {source.path} has no head that scores (no {_TRAINED_FILE}), "
                    f"but a table has it with training {NO_TRAINING!r}; name a training there, or give the folder of a "
                    "trained reranker"
                )

    # ---------------------------------------------------------------- what is wanted

    def tables(self) -> list[str]:
        """Names of the tables of results."""
        return list(self.params.tables)

    def overviews(self) -> list[str]:
        """Names of the tables of models and of trainings."""
        return list(self.params.overviews)

    def evaluated_first_stages(self) -> list[FirstStage]:
        """First-stage runs that stand in a table."""
        return _once(
            FirstStage(collection, test.split, retriever)
            for table in self.params.tables.values()
            for section in table.sections
            for retriever in section.retrievers
            for test in table.tests_of(section)
            for collection in test.collections
        )

    def evaluated_reranked(self) -> list[Reranked]:
        """Reranked runs that stand in a table as they are."""
        return _once(run for run, fusion in self._reranker_rows() if fusion is None)

    def fused(self) -> list[Fused]:
        """Fused runs that stand in a table."""
        return _once(Fused(*run, fusion) for run, fusion in self._reranker_rows() if fusion is not None)

    def _reranker_rows(self) -> Iterator[tuple[Reranked, str | None]]:
        return (
            (Reranked(collection, test.split, table.reranking, training, row.model), row.fusion)
            for table in self.params.tables.values()
            for section in table.sections
            for row in section.rerankers
            for training in self.params.seeded(row.training)
            for test in table.tests_of(section)
            for collection in test.collections
        )

    def reranked(self) -> list[Reranked]:
        """Reranked runs that stand in a table, that are fused or that weights of a fusion are fitted on."""
        fused = (run for one in self._fused_and_fitted() for run in self.fused_rerankers(one))
        return _once([*self.evaluated_reranked(), *fused])

    def _fused_and_fitted(self) -> Iterator[Fused]:
        return (one for run in self.fused() for one in (run, *self.fitted(run)))

    def trained(self) -> list[Trained]:
        """Checkpoints that a table needs, with those that they go on from."""
        wanted = [Trained(run.training, run.model) for run in self.reranked() if run.training != NO_TRAINING]
        # The list grows while it is read: what is found may have needs of its own.
        for training, model in wanted:
            start = self.params.start(training)
            found = [Trained(start, model)] if start is not None else []
            teacher = self.params.training(training).teacher
            found += self._teaching_rerankers(teacher) if teacher is not None else []
            wanted += [one for one in found if one not in wanted]
        return _once(wanted)

    def _teaching_rerankers(self, teacher: str) -> list[Trained]:
        """Checkpoints of trainings that are members of a teacher."""
        rerankers = self.params.teachers[teacher].rerankers
        return [Trained(one.training, one.model) for one in rerankers if one.training != NO_TRAINING]

    def taught(self) -> list[Taught]:
        """Negatives with a teacher's scores that the trainings need."""
        trainings = [self.params.training(training) for training, _ in self.trained()]
        return _once(
            Taught(section.collection, section.split, section.negatives, section.teacher)
            for section in trainings
            if section.teacher is not None
        )

    def samples(self) -> list[Sample]:
        """Negatives that the trainings need."""
        return _once(self.training_data(training) for training, _ in self.trained())

    def first_stages(self) -> list[FirstStage]:
        """First-stage runs that a table, a reranking or a training needs, or another run takes its candidates from."""
        wanted = [
            *self.evaluated_first_stages(),
            *(FirstStage(c, split, self.rerank_retriever(name)) for c, split, name, _, _ in self.reranked()),
            *(FirstStage(c, split, self.negatives_retriever(name)) for c, split, name in self.samples()),
            *(run for c, split, name in self.samples() for run in self.rivals(c, split, name)),
            *(run for taught in self.taught() for run in self.teaching_runs(taught)),
            *(run for training, _ in self.trained() for run in self.validation(training)),
            *(first for run in self._fused_and_fitted() for first in self.fused_retrievers(run)),
        ]
        for run in wanted:  # which grows
            wanted += self.candidates(run.retriever, run)
            for one in (run, *self.fitted_first_stage(run)):
                wanted += self.fused_first_stages(one)
        return _once(wanted)

    def indexes(self) -> list[Index]:
        """Indexes that first-stage runs need."""
        return _once(
            Index(run.collection, self.stemmer(run.retriever))
            for run in self.first_stages()
            if run.retriever in self.retrievers("bm25")
        )

    def embedded(self) -> list[Embedded]:
        """Vectors that first-stage runs and teachers need."""
        searched = [item for run in self.first_stages() for item in self.vectors(run.retriever, run.collection)]
        teachers = [(taught.collection, self.params.teachers[taught.teacher]) for taught in self.taught()]
        taught = [Embedded(collection, one.encoder) for collection, teacher in teachers for one in teacher.encoders]
        return _once([*searched, *taught])

    def vector_indexes(self) -> list[VectorIndex]:
        """Approximate indexes that first-stage runs need."""
        return _once(item for run in self.first_stages() for item in self.vector_index(run.retriever, run.collection))

    def collections(self) -> list[str]:
        """Names of the collections in use."""
        used = [run.collection for run in self.first_stages()]
        texts = [source.collection for name in used if isinstance(source := self._source(name), CorpusQueries)]
        return list(dict.fromkeys([*used, *(name for name in texts if name is not None)]))

    def models(self) -> list[str]:
        """Names of the models in use: rerankers, encoders, and those whose tokenizer or embeddings another takes."""
        names = [model for _, model in self.trained()] + [run.model for run in self.reranked()]
        dense = [self.params.retrievers[run.retriever] for run in self.first_stages()]
        encoders = [self.params.encoders[one.encoder].model for one in dense if isinstance(one, Dense)]
        for teacher in (self.params.teachers[taught.teacher] for taught in self.taught()):
            encoders += [self.params.encoders[one.encoder].model for one in teacher.encoders]
            encoders += [one.model for one in teacher.rerankers]
        shown = [model for name in self.params.overviews for model in self.overview_models(name)]
        names = list(dict.fromkeys([*names, *encoders, *shown]))
        for name in names:
            names.extend(parent for parent in self._parent_models(name).values() if parent not in names)
        return names

    def pretrained(self) -> list[Pretrained]:
        """Language models that are pretrained."""
        sections = self.params.pretraining.items()
        return [Pretrained(name, model) for name, section in sections for model in section.models]

    def command(self, target: str) -> str:
        """The command that makes a target, for people: with the overlays that are in use now."""
        overlays = [file for file in self.files if file != "params.yaml"]
        return " ".join(["snakemake", *(["--configfile", *overlays, "--"] if overlays else []), target])

    # ---------------------------------------------------------------- names that sections refer to

    def parents(self, model: str) -> dict[str, str]:
        """Folders of models that this one is made from, by the name of the subcommand's option without `-from`."""
        source = self.params.models[model].source
        if isinstance(source, PretrainedModel):
            return {"pretrained": f"results/pretraining/{source.pretraining}/models/{source.model}"}
        return {option: f"data/models/{name}" for option, name in self._parent_models(model).items()}

    def _parent_models(self, model: str) -> dict[str, str]:
        source = self.params.models[model].source
        if not isinstance(source, RandomModel):
            return {}
        parents = {"tokenizer": source.tokenizer, "embeddings": source.embeddings}
        return {option: name for option, name in parents.items() if name is not None}

    def kind(self, model: str) -> str:
        """E, ED or D."""
        return self.params.models[model].kind

    def retrievers(self, kind: str) -> list[str]:
        """Names of the retrievers of a kind."""
        return [name for name, retriever in self.params.retrievers.items() if retriever.kind == kind]

    def stemmer(self, retriever: str) -> str:
        """The stemmer of the index that a retriever of kind bm25 searches."""
        section = self.params.retrievers[retriever]
        assert isinstance(section, Bm25)
        return section.stemmer

    def encoder(self, retriever: str) -> str:
        """The encoder of a retriever of kind dense."""
        return self._dense(retriever).encoder

    def encoder_model(self, encoder: str) -> str:
        """The model of an encoder."""
        return self.params.encoders[encoder].model

    def vectors(self, retriever: str, collection: str) -> list[Embedded]:
        """The vectors that a retriever searches; none unless it is dense and searches all documents."""
        section = self.params.retrievers[retriever]
        if not isinstance(section, Dense) or section.candidates is not None:
            return []
        return [Embedded(collection, section.encoder)]

    def vector_index(self, retriever: str, collection: str) -> list[VectorIndex]:
        """The approximate index that a retriever searches; none where it compares every vector."""
        section = self.params.retrievers[retriever]
        exact = not isinstance(section, Dense) or section.index.kind == "flat"
        return [] if exact else [VectorIndex(collection, retriever)]

    def candidates(self, retriever: str, run: Any) -> list[FirstStage]:
        """The run whose documents a retriever scores for the collection and split of `run`; none if it searches all."""
        section = self.params.retrievers[retriever]
        if not isinstance(section, Dense) or section.candidates is None:
            return []
        return [FirstStage(run.collection, run.split, section.candidates.retriever)]

    def fused_first_stages(self, run: Any) -> list[FirstStage]:
        """The runs that a first-stage run is fused from; none unless its retriever is of kind fusion."""
        section = self.params.retrievers[run.retriever]
        return self._first_stages(section, run) if isinstance(section, FusedRetriever) else []

    def fitted_first_stage(self, run: Any) -> list[FirstStage]:
        """The run of the same retriever that its weights are fitted on; none unless it fuses and fits."""
        section = self.params.retrievers[run.retriever]
        if not isinstance(section, FusedRetriever) or not isinstance(section.weights, FittedWeights):
            return []
        return [FirstStage(*section.weights.fitted_on(run.collection), run.retriever)]

    def fused_retrievers(self, run: Any) -> list[FirstStage]:
        """The first-stage runs that a reranked run is fused with."""
        return self._first_stages(self.params.fusions[run.fusion], run)

    def fused_rerankers(self, run: Any) -> list[Reranked]:
        """The reranked runs that a fused one is made from; its own is the last."""
        others = self.params.fusions[run.fusion].rerankers
        rows = [(self.params.with_seed_of(run.training, row.training), row.model) for row in others]
        return [
            Reranked(run.collection, run.split, run.reranking, training, model)
            for training, model in (*rows, (run.training, run.model))
        ]

    def fused_runs(self, run: Any) -> list[str]:
        """The files that a fused run is made from, in the order of the weights."""
        return [*fill(FIRST_STAGE_RUN, self.fused_retrievers(run)), *fill(RERANKED_RUN, self.fused_rerankers(run))]

    def fitted(self, run: Any) -> list[Fused]:
        """The fused run that the weights of this one are fitted on; none unless its fusion fits weights."""
        weights = self.params.fusions[run.fusion].weights
        if not isinstance(weights, FittedWeights):
            return []
        collection, split = weights.fitted_on(run.collection)
        return [Fused(collection, split, run.reranking, run.training, run.model, run.fusion)]

    @staticmethod
    def _first_stages(fusion: FusionMethod, run: Any) -> list[FirstStage]:
        return [FirstStage(run.collection, run.split, name) for name in fusion.retrievers]

    def _dense(self, retriever: str) -> Dense:
        section = self.params.retrievers[retriever]
        assert isinstance(section, Dense)
        return section

    def negatives_retriever(self, negatives: str) -> str:
        """The retriever whose run the negatives are drawn from."""
        return self.params.negatives[negatives].retriever

    def rivals(self, collection: str, split: str, negatives: str) -> list[FirstStage]:
        """The run that tells false negatives; none where `false_negatives` is not set."""
        section = self.params.negatives[negatives].false_negatives
        return [] if section is None else [FirstStage(collection, split, section.retriever)]

    def pool(self, taught: Any) -> FirstStage:
        """The run that a teacher standardises its scores over."""
        return FirstStage(taught.collection, taught.split, self.params.teachers[taught.teacher].retriever)

    def teaching_runs(self, taught: Any) -> list[FirstStage]:
        """First-stage runs that a teacher reads."""
        own = [member.retriever for member in self.params.teachers[taught.teacher].runs]
        return [self.pool(taught), *(FirstStage(taught.collection, taught.split, retriever) for retriever in own)]

    def teacher_files(self, taught: Any) -> dict[str, list[str]]:
        """Files and folders of each member of a teacher."""
        files = {}
        for name, member in self.params.teachers[taught.teacher].members.items():
            if isinstance(member, RunTeacher):
                run = FirstStage(taught.collection, taught.split, member.retriever)
                files[name] = fill("results/runs/first-stage/{collection}/{split}/{retriever}.trec", [run])
            elif isinstance(member, EncoderTeacher):
                vectors = fill(
                    "data/indexes/{collection}/vectors-{encoder}", [Embedded(taught.collection, member.encoder)]
                )
                files[name] = [f"data/models/{self.encoder_model(member.encoder)}", *vectors]
            else:
                files[name] = [self.checkpoint(member.training, member.model)]
        return files

    def training_groups(self, training: str) -> str:
        """The file of the groups that a training reads: with a teacher's scores where it has a teacher."""
        section = self.params.training(training)
        if section.teacher is None:
            return fill("results/negatives/{collection}/{split}/{negatives}.jsonl", [self.training_data(training)])[0]
        taught = Taught(section.collection, section.split, section.negatives, section.teacher)
        return fill("results/teaching/{collection}/{split}/{negatives}/{teacher}.jsonl", [taught])[0]

    def rerank_retriever(self, reranking: str) -> str:
        """The retriever whose run is reranked."""
        return self.params.rerankings[reranking].retriever

    def training_data(self, training: str) -> Sample:
        """The negatives that a training uses, and so its collection and split."""
        section = self.params.training(training)
        return Sample(section.collection, section.split, section.negatives)

    def start(self, training: str, model: str) -> str:
        """The folder that a training begins with: the model's, or a checkpoint of an earlier training."""
        start = self.params.start(training)
        return f"data/models/{model}" if start is None else f"results/checkpoints/{start}/{model}"

    def checkpoint(self, training: str, model: str) -> str:
        """The folder of the reranker: what a training made, or the model's own where there is none."""
        return f"data/models/{model}" if training == NO_TRAINING else f"results/checkpoints/{training}/{model}"

    def validation(self, training: str) -> list[FirstStage]:
        """The run of held-out queries that a training reranks now and then; empty if it has none."""
        section = self.params.training(training)
        if section.validation is None:
            return []
        return [FirstStage(section.collection, section.validation.split, section.validation.retriever)]

    # ---------------------------------------------------------------- settings that jobs are handed

    def collection_settings(self, name: str) -> str:
        """For `ssmrank download collection`."""
        return _json(self.params.collections[name], title=name, license="", queries_are_documents=False)

    def own_documents(self, collection: str) -> str:
        """The option of subcommands that retrieve for a collection whose queries are documents of it."""
        return "--leave-out-own-document" if self.params.collections[collection].queries_are_documents else ""

    def collection_files(self, name: str) -> list[Path]:
        """Files on this machine that the collection is made of."""
        source, corpus = self.params.collections[name].source, self._corpus_of(name)
        if corpus is not None:
            return self.corpus_files(corpus)
        if not isinstance(source, FolderCollection):
            return []
        folder = Path(source.path)
        qrels = [f"qrels/{split}.tsv" for split in self.params.collections[name].splits]
        return [folder / file for file in ("corpus.jsonl", "queries.jsonl", *qrels)]

    def collection_corpus(self, name: str) -> list[str]:
        """The option --corpus of `ssmrank download collection`, where the collection is made from a corpus."""
        corpus = self._corpus_of(name)
        return ["--corpus", self.corpus_settings(corpus)] if corpus is not None else []

    def collection_texts(self, name: str) -> list[str]:
        """The folder of the collection that another one takes its documents from."""
        source = self._source(name)
        if not isinstance(source, CorpusQueries) or source.collection is None:
            return []
        return [f"data/collections/{source.collection}"]

    def _source(self, collection: str) -> CollectionSource:
        return self.params.collections[collection].source

    def _corpus_of(self, name: str) -> str | None:
        source = self._source(name)
        return source.corpus if isinstance(source, TitlesCollection | CorpusQueries) else None

    def corpus_settings(self, name: str) -> str:
        """For the subcommands that read a corpus."""
        return _json(self.params.corpora[name], title=name, license="")

    def corpus_files(self, name: str) -> list[Path]:
        """Files on this machine that the corpus is made of."""
        corpus = self.params.corpora[name]
        return [Path(corpus.path, file) for file in corpus.files]

    def pretraining_labels(self, pretraining: str) -> list[str]:
        """`LABEL=FOLDER` of each model, for `ssmrank figure pretraining`."""
        models = self.params.pretraining[pretraining].models
        return [f"{model.label}=results/pretraining/{pretraining}/models/{name}" for name, model in models.items()]

    def pretrain_settings(self, pretraining: str, model: str) -> str:
        """For `ssmrank pretrain run`."""
        return _json(self.params.pretrain_settings(pretraining, model))

    def sweep_settings(self, pretraining: str) -> str:
        """For `ssmrank pretrain sweep`."""
        return _json(self.params.pretraining[pretraining].sweep)

    def published_checkpoint(self, pretraining: str, model: str) -> list[str]:
        """The checkpoint that is published for a pretrained model, where it is not the pretraining's own."""
        training = self.params.pretraining[pretraining].published
        if training is None:
            return []
        return [f"results/checkpoints/{training}/{self.params.published_model(pretraining, model)}"]

    def card_settings(self, pretraining: str, model: str) -> str:
        """For `ssmrank pretrain publish`."""
        scores = [row.model_dump() for row in self._card_scores(pretraining, model)]
        return _json(self.params.card_settings(pretraining, model), scores=scores)

    def card_inputs(self, pretraining: str, model: str) -> list[str]:
        """The metrics files that a model card shows."""
        return list(dict.fromkeys(file for row in self._card_scores(pretraining, model) for file in row.files.values()))

    def _card_scores(self, pretraining: str, model: str) -> list[CardScores]:
        """What tables show of the published reranker: each test with the first stage, alone and fused."""
        training = self.params.pretraining[pretraining].published
        if training is None:
            return []
        name = self.params.published_model(pretraining, model)
        scores: dict[tuple[str, str], dict[str, str]] = {}
        for table in self.params.tables.values():
            retriever = self.rerank_retriever(table.reranking)
            for section in table.sections:
                for row in (row for row in section.rerankers if (row.model, row.training) == (name, training)):
                    fused = "" if row.fusion is None else f"/{row.fusion}"
                    label = "alone" if row.fusion is None else f"fused ({row.fusion})"
                    for test in table.tests_of(section):
                        if not isinstance(test.collection, str):
                            continue
                        where = f"results/metrics/{test.collection}/{test.split}"
                        title = f"{self.params.collections[test.collection].title}, {test.split}"
                        files = scores.setdefault((title, test.metric), {})
                        files[self.params.retrievers[retriever].label] = f"{where}/{retriever}.json"
                        files[label] = f"{where}/{table.reranking}/{training}/{name}{fused}.json"
        return [CardScores(test=test, metric=metric, files=files) for (test, metric), files in scores.items()]

    def model_settings(self, name: str) -> str:
        """For `ssmrank download model`."""
        return _json(self.params.models[name], label=name, kind="E", size="", pretraining="", training={})

    def train_processes(self, training: str) -> int:
        """GPUs that a training takes; those of a parallel one with all GPUs are not known here and count as one."""
        return self.params.trainings[training.partition(SEED_SIGN)[0]].processes or 1

    def rerank_processes(self, reranking: str) -> int:
        """GPUs that a reranking takes."""
        return self.params.rerankings[reranking].processes or 1

    def model_files(self, name: str) -> list[Path]:
        """Files on this machine that the checkpoint is made of."""
        model = self.params.models[name]
        parts = ((model.source, True), (model.tokenizer, False))
        folders = [(Path(source.path), weights) for source, weights in parts if isinstance(source, ModelFolder)]
        return [folder / file for folder, weights in folders for file in wanted_files(model_files(folder), weights)]

    def retriever_settings(self, name: str, collection: str) -> str:
        """For the subcommands that retrieve."""
        section = self.params.retrievers[name]
        if isinstance(section, Bm25):
            parameters = section.of_collections.get(collection, section)
            return _json(section, label=name, of_collections={}, k1=parameters.k1, b=parameters.b)
        return _json(section, label=name)

    def outside_files(self) -> list[Path]:
        """All files on this machine that the sections name, in use or not."""
        runs = [one.runs.values() for one in self.params.retrievers.values() if isinstance(one, FileRetriever)]
        paths = {
            *(path for name in self.params.collections for path in self.collection_files(name)),
            *(path for name in self.params.models for path in self.model_files(name) if path.is_file()),
            *(path for name in self.params.corpora for path in self.corpus_files(name)),
            *(Path(file.path) for files in runs for file in files),
        }
        return sorted(paths)

    def run_file(self, retriever: str, collection: str, split: str) -> list[Path]:
        """The file of a retriever of kind run."""
        section = self.params.retrievers[retriever]
        assert isinstance(section, FileRetriever)
        file = section.runs.get(f"{collection}/{split}")
        return [Path(file.path)] if file is not None else []

    def encoder_settings(self, name: str) -> str:
        """For `ssmrank index vectors`."""
        return _json(self.params.encoders[name], model=name)

    def vector_index_settings(self, retriever: str) -> str:
        """For `ssmrank index faiss`."""
        return _json(self._dense(retriever).index)

    def overview_settings(self, name: str) -> str:
        """For `ssmrank table overview`."""
        return _json(overview_settings(self.params, name))

    def overview_models(self, name: str) -> list[str]:
        """Models whose parameters an overview counts."""
        overview = self.params.overviews[name]
        if not isinstance(overview, ModelsOverview):
            return []
        return [model for section in overview.sections for model in section.models]

    def negatives_settings(self, name: str) -> str:
        """For `ssmrank negatives`."""
        return _json(self.params.negatives[name])

    def teach_settings(self, teacher: str, negatives: str) -> str:
        """For `ssmrank teach`."""
        return _json(self.params.teach_settings(teacher, negatives))

    def train_settings(self, training: str, model: str) -> str:
        """For `ssmrank train`."""
        return _json(self.params.train_settings(training, model), label="")

    def reranking_settings(self, name: str) -> str:
        """For `ssmrank rerank`."""
        return _json(self.params.rerankings[name])

    def fuse_settings(self, run: Any) -> str:
        """For `ssmrank fuse run` of reranked runs."""
        return _fuse_settings(self.params.fusions[run.fusion], self.params.rerankings[run.reranking].depth)

    def fuse_weights_settings(self, run: Any) -> str:
        """For `ssmrank fuse weights` of reranked runs."""
        return _fit_settings(self.params.fusions[run.fusion], self.params.rerankings[run.reranking].depth)

    def fuse_first_stage_settings(self, retriever: str) -> str:
        """For `ssmrank fuse run` of first-stage runs."""
        section = self._fused_retriever(retriever)
        return _fuse_settings(section, section.depth)

    def fuse_first_stage_weights_settings(self, retriever: str) -> str:
        """For `ssmrank fuse weights` of first-stage runs."""
        section = self._fused_retriever(retriever)
        return _fit_settings(section, section.depth)

    def _fused_retriever(self, retriever: str) -> FusedRetriever:
        section = self.params.retrievers[retriever]
        assert isinstance(section, FusedRetriever)
        return section

    def evaluation_settings(self) -> str:
        """For `ssmrank evaluate`."""
        return _json(self.params.evaluation)

    def table_settings(self, name: str) -> str:
        """For `ssmrank table results`."""
        return _json(table_settings(self.params, name))

    def significance_settings(self, name: str) -> str:
        """For `ssmrank table significance`."""
        settings = significance_settings(self.params, name)
        return "" if settings is None else _json(settings)

    def table_keys(self, name: str) -> list[str]:
        """Keys of the metrics files that a table shows."""
        return table_settings(self.params, name).metric_keys()

    def costs(self, table: str) -> list[str]:
        """The file of a table's costs, where it shows them."""
        return [f"results/tables/costs/{table}.json"] if self.params.tables[table].costs is not None else []

    def cost_settings(self, table: str) -> str:
        """For `ssmrank measure costs`."""
        return json.dumps({"rows": list(self._cost_rows(table))}, sort_keys=True)

    def cost_inputs(self, table: str) -> list[str]:
        """Files and folders that a table's costs are read from."""
        rows = list(self._cost_rows(table))
        folders = [path for row in rows for path in (*row["checkpoints"], row["pretrained"], row["speed"])]
        return list(dict.fromkeys(path for path in folders if path is not None))

    def efficiency_settings(self) -> str:
        """For `ssmrank figure efficiency`: the rerankers of the first table on its first test."""
        return json.dumps(self._efficiency(), sort_keys=True)

    def efficiency_inputs(self) -> list[str]:
        """Files that the efficiency figure is drawn from."""
        return [path for row in self._efficiency()["rows"] for path in (row["metrics"], row["speed"])]

    def _efficiency(self) -> dict[str, Any]:
        table = next(iter(self.params.tables.values()))
        test = table.tests[0]
        collection = test.collection if isinstance(test.collection, str) else test.collection[0]
        rows = []
        for row in (row for section in table.sections for row in section.rerankers if row.fusion is None):
            training = self.params.seeded(row.training)[0]
            run = f"{collection}/{test.split}/{table.reranking}/{training}/{row.model}"
            section = self.params.trainings.get(row.training)
            label = self.params.models[row.model].label + (f", {section.label}" if section else "")
            files = {kind: f"results/{kind}/{run}.json" for kind in ("metrics", "speed")}
            rows.append({"label": label, **files})
        title = f"{self.params.collections[collection].title}, {test.split}"
        return {"title": title, "metric": test.metric, "rows": rows}

    def speed_pairs(self, collection: str, split: str) -> list[str]:
        """The option --pairs of a measurement of speed on this test: what a table says, else all that are reranked."""
        costs = [table.costs for table in self.params.tables.values() if table.costs is not None]
        wanted = [cost.speed for cost in costs if cost.speed is not None]
        pairs = [speed.pairs for speed in wanted if (speed.collection, speed.split) == (collection, split)]
        return [] if not pairs or None in pairs else ["--pairs", str(max(filter(None, pairs)))]

    def _cost_rows(self, name: str) -> Iterator[dict[str, Any]]:
        table = self.params.tables[name]
        if table.costs is None:
            return
        timed_models: set[str] = set()
        for row in (row for section in table.sections for row in section.rerankers):
            source = self.params.models[row.model].source
            pretrained = self.parents(row.model)["pretrained"] if isinstance(source, PretrainedModel) else None
            trainings = self.params.seeded(row.training)
            fusion = f"/{row.fusion}" if row.fusion else ""
            timed = table.costs.speed
            speed = None
            # What a model's speed is does not depend on how it was trained: its first row stands for all.
            if timed is not None and row.model not in timed_models:
                timed_models.add(row.model)
                test = f"{timed.collection}/{timed.split}/{table.reranking}"
                speed = f"results/speed/{test}/{trainings[0]}/{row.model}.json"
            yield {
                "run": f"{table.reranking}/{trainings[0]}/{row.model}{fusion}",
                "checkpoints": [self.checkpoint(name, row.model) for name in trainings if name != NO_TRAINING],
                "pretrained": pretrained,
                "speed": speed,
            }

    def tested_tables(self) -> list[str]:
        """Names of the tables whose rows are compared by tests of significance."""
        return [name for name, table in self.params.tables.items() if table.significance is not None]

    def numbered_tables(self) -> list[str]:
        """Names of all tables, by the number at their end; beside overviews, as in the paper, also what is measured."""
        measured = ["table5", "table6"] if self.overviews() else []
        names = [*self.overviews(), *self.tables(), *measured]
        return sorted(names, key=lambda name: (int("".join(re.findall(r"[0-9]+$", name)) or 0), name))

    def compared_tables(self) -> list[str]:
        """Names of the tables with at least two rows that are run."""
        return [
            name
            for name, table in self.params.tables.items()
            if sum(len(section.retrievers) + len(section.rerankers) for section in table.sections) > 1
        ]

    def training_names(self) -> list[str]:
        """Names of the trainings in use, without seeds."""
        return list(dict.fromkeys(name.partition(SEED_SIGN)[0] for name, _ in self.trained()))

    def trained_by(self, training: str) -> list[Trained]:
        """Checkpoints of a training, of all its seeds."""
        return [one for one in self.trained() if one.training.partition(SEED_SIGN)[0] == training]

    def checkpoint_labels(self, training: str, folder: str) -> list[str]:
        """LABEL=FOLDER of a training's checkpoints."""
        labels = []
        for name, model in self.trained_by(training):
            seed = name.partition(SEED_SIGN)[2]
            label = self.params.models[model].label + (f", seed {seed}" if seed else "")
            labels.append(f"{label}={folder}/{name}/{model}")
        return labels

    def significance(self, table: str) -> list[str]:
        """The table's name if its rows are compared."""
        return [name for name in self.tested_tables() if name == table]


def _json(section: BaseModel, **replaced: Any) -> str:
    return json.dumps(section.model_dump(mode="json") | replaced, sort_keys=True)


def _fuse_settings(fusion: FusionMethod, depth: int) -> str:
    weights = fusion.weights if isinstance(fusion.weights, list) else None
    return _json(FuseSettings(**fusion.how, depth=depth, weights=weights))


def _fit_settings(fusion: FusionMethod, depth: int) -> str:
    assert isinstance(fusion.weights, FittedWeights)
    grid = {"metric": fusion.weights.metric, "steps": fusion.weights.steps}
    return _json(FuseWeightsSettings(**fusion.how, **grid, depth=depth))


def _once(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))
