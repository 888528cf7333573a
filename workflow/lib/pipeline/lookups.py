"""What the names in an experiment refer to: other names, inputs of jobs, files on this machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Protocol

from pipeline import paths
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
    fill,
)
from ssmrank import jobs
from ssmrank.config.collections import CollectionSource, CorpusQueries, FolderCollection, TitlesCollection
from ssmrank.config.cost_settings import CostRow
from ssmrank.config.fusions import FittedWeights, FusionMethod
from ssmrank.config.models import CrossEncoderModel, ModelFolder, PretrainedModel, RandomModel
from ssmrank.config.overviews import ModelsOverview
from ssmrank.config.params import Params
from ssmrank.config.retrievers import Bm25, Dense, FileRetriever, FusedRetriever
from ssmrank.config.teachers import EncoderTeacher, RunTeacher
from ssmrank.config.trainings import NO_TRAINING, TRAINED_SIGN
from ssmrank.io.model_files import CROSS_ENCODER, model_files, select, wanted_files


class OfSplit(Protocol):
    """An item, or a job's wildcards, with a collection and a split."""

    @property
    def collection(self) -> str:
        """A name in `collections`."""

    @property
    def split(self) -> str:
        """A split of the collection."""


class OfRetriever(OfSplit, Protocol):
    """A first-stage run, or a job's wildcards that name one."""

    @property
    def retriever(self) -> str:
        """A name in `retrievers`."""


class OfTeacher(OfSplit, Protocol):
    """Negatives with a teacher's scores, or a job's wildcards that name them."""

    @property
    def teacher(self) -> str:
        """A name in `teachers`."""


class OfReranking(OfSplit, Protocol):
    """A reranked run, or a job's wildcards that name one."""

    @property
    def reranking(self) -> str:
        """A name in `rerankings`."""

    @property
    def training(self) -> str:
        """A name in `trainings`, or one of its seeds."""

    @property
    def model(self) -> str:
        """A name in `models`."""


class OfFusion(OfReranking, Protocol):
    """A fused run, or a job's wildcards that name one."""

    @property
    def fusion(self) -> str:
        """A name in `fusions`."""


class Lookups:
    """Answers about one name at a time; `Targets` says which names an experiment needs."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.training = cache(params.training)

    # ---------------------------------------------------------------- collections and corpora

    def own_documents(self, collection: str) -> str:
        """The option of retrieval subcommands for a collection whose queries are documents of it."""
        return "--leave-out-own-document" if self.params.collections[collection].queries_are_documents else ""

    def collection_files(self, name: str) -> list[Path]:
        """Files on this machine that the collection is made of."""
        source, corpus = self.source(name), self.corpus_of(name)
        if corpus is not None:
            return self.corpus_files(corpus)
        if not isinstance(source, FolderCollection):
            return []
        folder = Path(source.path)
        qrels = [f"qrels/{split}.tsv" for split in self.params.collections[name].splits]
        return [folder / file for file in ("corpus.jsonl", "queries.jsonl", *qrels)]

    def texts_of(self, collection: str) -> list[str]:
        """The collection that this one takes its documents from; None unless it is made from another."""
        source = self.source(collection)
        return [source.collection] if isinstance(source, CorpusQueries) and source.collection is not None else []

    def collection_texts(self, collection: str) -> list[str]:
        """The folder of the collection that this one takes its documents from."""
        return [paths.COLLECTION.format(collection=name) for name in self.texts_of(collection)]

    def source(self, collection: str) -> CollectionSource:
        """The source of a collection."""
        return self.params.collections[collection].source

    def corpus_of(self, collection: str) -> str | None:
        """The corpus that a collection is made from."""
        source = self.source(collection)
        return source.corpus if isinstance(source, TitlesCollection | CorpusQueries) else None

    def corpus_files(self, name: str) -> list[Path]:
        """Files on this machine that the corpus is made of."""
        corpus = self.params.corpora[name]
        return [Path(corpus.path, file) for file in corpus.files]

    # ---------------------------------------------------------------- models

    def parents(self, model: str) -> dict[str, str]:
        """Folders of models that this one is made from. Keys are options of the subcommand without `-from`."""
        source = self.params.models[model].source
        if isinstance(source, PretrainedModel):
            return {"pretrained": paths.pretrained_of(source.pretraining, source.model)}
        return {option: self.model_folder(name) for option, name in self.parent_models(model).items()}

    def parent_models(self, model: str) -> dict[str, str]:
        """Names of models whose tokenizer or embeddings this one uses."""
        source = self.params.models[model].source
        if not isinstance(source, RandomModel):
            return {}
        parents = {"tokenizer": source.tokenizer, "embeddings": source.embeddings}
        return {option: name for option, name in parents.items() if name is not None}

    def model_folder(self, model: str) -> str:
        """The folder that a model is downloaded to."""
        return paths.MODEL.format(model=model)

    def model_files(self, name: str) -> list[Path]:
        """Files on this machine that the checkpoint is made of."""
        model = self.params.models[name]
        also = CROSS_ENCODER if isinstance(model.source, CrossEncoderModel) else ()
        parts = ((model.checkpoint, True), (model.tokenizer, False))
        folders = [(Path(source.path), weights) for source, weights in parts if isinstance(source, ModelFolder)]
        found = [(folder, model_files(folder), weights) for folder, weights in folders]
        return [
            folder / file
            for folder, names, weights in found
            for file in [*wanted_files(names, weights), *select(names, also)]
        ]

    def kind(self, model: str) -> str:
        """E, ED or D."""
        return self.params.models[model].kind

    def overview_models(self, name: str) -> list[str]:
        """Models whose parameters an overview counts."""
        overview = self.params.overviews[name]
        if not isinstance(overview, ModelsOverview):
            return []
        return [model for section in overview.sections for model in section.models]

    # ---------------------------------------------------------------- first stages

    def retrievers(self, kind: str) -> list[str]:
        """Names of the retrievers of a kind."""
        return [name for name, retriever in self.params.retrievers.items() if retriever.kind == kind]

    def index(self, retriever: str, collection: str) -> Index:
        """The index that a retriever of kind bm25 searches."""
        section = self.params.retrievers[retriever]
        assert isinstance(section, Bm25)
        return Index(collection, section.stemmer)

    def encoder(self, retriever: str) -> str:
        """The encoder of a retriever of kind dense, as `Params.encoder` names it."""
        return self.params.encoder_of(retriever)

    def trained_encoder(self, retriever: str) -> list[Trained]:
        """The checkpoint that a retriever encodes with; empty unless it is trained here."""
        section = self.params.retrievers[retriever]
        if not isinstance(section, Dense) or section.trained is None:
            return []
        return [Trained(section.trained.training, section.trained.model)]

    def encoder_model(self, encoder: str) -> str:
        """The folder of an encoder's model."""
        retriever, sign, _ = encoder.partition(TRAINED_SIGN)
        if not sign:
            return self.model_folder(self.params.encoder(encoder).model)
        [trained] = self.trained_encoder(retriever)
        return self.checkpoint(*trained)

    def vectors(self, retriever: str, collection: str) -> list[Embedded]:
        """The vectors that a retriever searches; empty unless it is dense and searches all documents."""
        section = self.params.retrievers[retriever]
        if not isinstance(section, Dense) or section.candidates is not None:
            return []
        return [Embedded(collection, self.encoder(retriever))]

    def vector_index(self, retriever: str, collection: str) -> list[VectorIndex]:
        """The approximate index that a retriever searches; empty if it compares every vector."""
        section = self.params.retrievers[retriever]
        exact = not isinstance(section, Dense) or section.index.kind == "flat"
        return [] if exact else [VectorIndex(collection, retriever)]

    def candidates(self, run: OfRetriever) -> list[FirstStage]:
        """The run whose documents this run's retriever scores; empty if it searches all documents."""
        section = self.params.retrievers[run.retriever]
        if not isinstance(section, Dense) or section.candidates is None:
            return []
        return [FirstStage(run.collection, run.split, section.candidates.retriever)]

    def run_file(self, retriever: str, collection: str, split: str) -> list[Path]:
        """The file of a retriever of kind run; empty if it has none for this split."""
        section = self.params.retrievers[retriever]
        assert isinstance(section, FileRetriever)
        file = section.runs.get(f"{collection}/{split}")
        return [Path(file.path)] if file is not None else []

    def fused_first_stages(self, run: OfRetriever) -> list[FirstStage]:
        """The runs that a first-stage run is fused from; empty unless its retriever is of kind fusion."""
        section = self.params.retrievers[run.retriever]
        return _first_stages(section, run) if isinstance(section, FusedRetriever) else []

    def fitted_first_stage(self, run: OfRetriever) -> list[FirstStage]:
        """The run of the same retriever that its weights are fitted on; empty unless it fuses with fitted weights."""
        section = self.params.retrievers[run.retriever]
        if not isinstance(section, FusedRetriever) or not isinstance(section.weights, FittedWeights):
            return []
        return [FirstStage(*section.weights.fitted_on(run.collection), run.retriever)]

    # ---------------------------------------------------------------- negatives and teachers

    def sampled_run(self, collection: str, split: str, negatives: str) -> FirstStage:
        """The run that the negatives are drawn from."""
        return FirstStage(collection, split, self.params.negatives[negatives].retriever)

    def rivals(self, collection: str, split: str, negatives: str) -> list[FirstStage]:
        """The run that identifies false negatives; empty if `false_negatives` is not set."""
        section = self.params.negatives[negatives].false_negatives
        return [] if section is None else [FirstStage(collection, split, section.retriever)]

    def pool(self, taught: OfTeacher) -> FirstStage:
        """The run over whose documents a teacher standardises its scores."""
        return FirstStage(taught.collection, taught.split, self.params.teachers[taught.teacher].retriever)

    def teaching_runs(self, taught: OfTeacher) -> list[FirstStage]:
        """First-stage runs that a teacher reads."""
        own = [member.retriever for member in self.params.teachers[taught.teacher].runs]
        return [self.pool(taught), *(FirstStage(taught.collection, taught.split, retriever) for retriever in own)]

    def teacher_files(self, taught: OfTeacher) -> dict[str, list[str]]:
        """Files and folders of each member of a teacher."""
        files = {}
        for name, member in self.params.teachers[taught.teacher].members.items():
            if isinstance(member, RunTeacher):
                run = FirstStage(taught.collection, taught.split, member.retriever)
                files[name] = fill(paths.FIRST_STAGE_RUN, [run])
            elif isinstance(member, EncoderTeacher):
                vectors = fill(paths.VECTORS, [Embedded(taught.collection, member.encoder)])
                files[name] = [self.encoder_model(member.encoder), *vectors]
            else:
                files[name] = [self.checkpoint(member.training, member.model)]
        return files

    # ---------------------------------------------------------------- trainings

    def training_data(self, training: str) -> Sample:
        """The negatives that a training uses, and so its collection and split."""
        section = self.training(training)
        return Sample(section.collection, section.split, section.negatives)

    def taught(self, training: str) -> list[Taught]:
        """A training's negatives with its teacher's scores; empty if it has no teacher."""
        section = self.training(training)
        if section.teacher is None:
            return []
        return [Taught(section.collection, section.split, section.negatives, section.teacher)]

    def training_groups(self, training: str) -> str:
        """The file of groups that a training reads: with the teacher's scores if it has a teacher."""
        [file] = fill(paths.TAUGHT, self.taught(training)) or fill(paths.NEGATIVES, [self.training_data(training)])
        return file

    def start(self, training: str, model: str) -> str:
        """The folder that a training starts from: the model's, or a checkpoint of an earlier training."""
        return self.checkpoint(self.params.start(training) or NO_TRAINING, model)

    def checkpoint(self, training: str, model: str) -> str:
        """The folder of a reranker: a training's checkpoint, or the model's own folder without a training."""
        return self.model_folder(model) if training == NO_TRAINING else paths.checkpoint_of(training, model)

    def validation(self, training: str) -> list[FirstStage]:
        """The run of held-out queries that a training reranks at intervals; empty if it has none."""
        section = self.training(training)
        if section.validation is None:
            return []
        return [FirstStage(section.collection, section.validation.split, section.validation.retriever)]

    def train_modules(self, training: str) -> list[str]:
        """Modules that this training runs, and that most trainings do not."""
        section = self.training(training)
        needed = {
            "ssmrank.training.adapters": section.lora is not None,
            "ssmrank.training.eight_bit": section.optimizer_states == "8bit",
            "ssmrank.training.validation": section.validation is not None,
            "ssmrank.evaluation.metrics": section.validation is not None,
        }
        return [module for module, wanted in needed.items() if wanted]

    def train_processes(self, training: str) -> int:
        """GPUs that a training uses; one on each node if it uses all GPUs, whose number is not known here."""
        section = self.training(training)
        return section.processes or section.nodes or 1

    def train_nodes(self, training: str) -> int | None:
        """Nodes of a training that uses several, else None."""
        nodes = self.training(training).nodes or 1
        return nodes if nodes > 1 else None

    def train_places(self, training: str) -> str | None:
        """Slurm's options that spread the tasks and GPUs of a training evenly over its nodes; None for one node."""
        nodes = self.train_nodes(training)
        if nodes is None:
            return None
        return f"--ntasks-per-node=1 --gpus-per-node={self.train_processes(training) // nodes}"

    # ---------------------------------------------------------------- rerankings and fusions

    def first_stage(self, run: OfReranking) -> FirstStage:
        """The run that is reranked."""
        return FirstStage(run.collection, run.split, self.params.rerankings[run.reranking].retriever)

    def rerank_processes(self, reranking: str) -> int:
        """GPUs that a reranking uses; 1 unless the section says."""
        return self.params.rerankings[reranking].processes or 1

    def fused_retrievers(self, run: OfFusion) -> list[FirstStage]:
        """The first-stage runs that a reranked run is fused with."""
        return _first_stages(self.params.fusions[run.fusion], run)

    def fused_rerankers(self, run: OfFusion) -> list[Reranked]:
        """The reranked runs that a fused run is made from; its own is the last."""
        others = self.params.fusions[run.fusion].rerankers
        rows = [(self.params.with_seed_of(run.training, row.training), row.model) for row in others]
        return [
            Reranked(run.collection, run.split, run.reranking, training, model)
            for training, model in (*rows, (run.training, run.model))
        ]

    def fused_runs(self, run: OfFusion) -> list[str]:
        """The files that a fused run is made from, in the order of the weights."""
        first_stages = fill(paths.FIRST_STAGE_RUN, self.fused_retrievers(run))
        return [*first_stages, *fill(paths.RERANKED_RUN, self.fused_rerankers(run))]

    def fitted(self, run: OfFusion) -> list[Fused]:
        """The fused run that the weights of this one are fitted on; empty unless its fusion fits weights."""
        weights = self.params.fusions[run.fusion].weights
        if not isinstance(weights, FittedWeights):
            return []
        collection, split = weights.fitted_on(run.collection)
        return [Fused(collection, split, run.reranking, run.training, run.model, run.fusion)]

    # ---------------------------------------------------------------- pretraining

    def corpus(self, pretraining: str) -> str:
        """The corpus of a section of pretraining."""
        return self.params.pretraining[pretraining].corpus

    def pretrained_by(self, pretraining: str) -> list[Pretrained]:
        """Language models of a section of pretraining."""
        return [Pretrained(pretraining, model) for model in self.params.pretraining[pretraining].models]

    def pretraining_labels(self, pretraining: str) -> list[tuple[str, str]]:
        """Label and folder of each model, for `ssmrank figure pretraining`."""
        models = self.params.pretraining[pretraining].models
        return [(model.label, paths.pretrained_of(pretraining, name)) for name, model in models.items()]

    def published_checkpoint(self, pretraining: str, model: str) -> list[str]:
        """The checkpoint that is published for a pretrained model; empty if it is the pretraining's own."""
        training = self.params.pretraining[pretraining].published
        if training is None:
            return []
        return [paths.checkpoint_of(training, self.params.published_model(pretraining, model))]

    def card_inputs(self, pretraining: str, model: str) -> list[str]:
        """The metrics files that a model card shows."""
        scores = jobs.card_settings(self.params, pretraining, model, paths).scores
        return list(dict.fromkeys(file for row in scores for file in row.files.values()))

    # ---------------------------------------------------------------- tables and figures

    def table_keys(self, table: str) -> list[str]:
        """Keys of the metrics files that a table shows."""
        return jobs.table_settings(self.params, table).metric_keys()

    def compared_runs(self, comparison: str) -> dict[str, str]:
        """The files that a comparison TABLE/COLLECTION/SPLIT reads, by their labels."""
        table, _, test = comparison.partition("/")
        runs = jobs.compared_runs(self.params, table, test)
        return {label: paths.run_of(f"{test}/{run}") for label, run in runs.items()}

    def compared_collection(self, comparison: str) -> str:
        """The collection that a comparison TABLE/COLLECTION/SPLIT is about."""
        return paths.COLLECTION.format(collection=comparison.split("/")[1])

    def compared_qrels(self, comparison: str) -> str:
        """The judgments of a comparison TABLE/COLLECTION/SPLIT."""
        _, collection, split = comparison.split("/")
        return paths.QRELS.format(collection=collection, split=split)

    def significance(self, table: str) -> list[str]:
        """The file of the significance tests between a table's rows; empty if there are none."""
        return [paths.SIGNIFICANCE.format(table=table)] if self.params.tables[table].significance is not None else []

    def costs(self, table: str) -> list[str]:
        """The file of a table's costs; empty if it shows none."""
        return [paths.COSTS.format(table=table)] if self.params.tables[table].costs is not None else []

    def cost_rows(self, table: str) -> list[CostRow]:
        """The rows of a table that have costs."""
        return jobs.cost_settings(self.params, table, paths).rows

    def cost_inputs(self, table: str) -> list[str]:
        """Files and folders that a table's costs are read from."""
        files = [path for row in self.cost_rows(table) for path in (*row.checkpoints, row.pretrained, row.speed)]
        return list(dict.fromkeys(path for path in files if path is not None))

    def efficiency_inputs(self) -> list[str]:
        """Files that the efficiency figure is drawn from."""
        rows = jobs.efficiency_settings(self.params, paths).rows
        return [path for row in rows for path in (row.metrics, row.speed)]

    def token_figure_inputs(self, table: str) -> list[str]:
        """Files that a table's figure of tokens is drawn from."""
        settings = jobs.token_figure_settings(self.params, table, paths)
        files = [path for row in settings.rows for tests in (*row.metrics, row.tokens) for path in tests]
        return list(dict.fromkeys([*files, *settings.first_stage_metrics]))

    def speed_pairs(self, collection: str, split: str) -> list[str]:
        """The option --pairs of a speed measurement on this split: a table's number; empty for all reranked pairs."""
        costs = [table.costs for table in self.params.tables.values() if table.costs is not None]
        wanted = [cost.speed for cost in costs if cost.speed is not None]
        pairs = [speed.pairs for speed in wanted if (speed.collection, speed.split) == (collection, split)]
        return [] if not pairs or None in pairs else ["--pairs", str(max(filter(None, pairs)))]


def _first_stages(fusion: FusionMethod, run: OfSplit) -> list[FirstStage]:
    return [FirstStage(run.collection, run.split, name) for name in fusion.retrievers]
