"""A checked experiment: the files that it needs, what its names refer to, and the settings of each job."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from pipeline.architectures import check_architecture
from pipeline.deployment import IMAGE
from pipeline.lookups import Lookups
from pipeline.package import INSTALLED_RELEASE
from pipeline.targets import Targets
from ssmrank import jobs
from ssmrank.config.models import ModelFolder
from ssmrank.config.params import Params, read_params
from ssmrank.config.reading import check, read_sections
from ssmrank.config.retrievers import FileRetriever
from ssmrank.config.section import Section
from ssmrank.config.trainings import NO_TRAINING
from ssmrank.errors import UserError, one_line
from ssmrank.io.plain import check_plain

P = ParamSpec("P")

_TRAINED_FILE = "reranker.json"
"""`ssmrank.models.reranker.TRAINED_FILE`, copied because importing it takes seconds."""


def check_file(path: str) -> None:
    """Exits with one line on standard error unless the file is an experiment; Snakemake's own message names no line."""
    try:
        read_params(path)
    except UserError as error:
        raise SystemExit(f"ssmrank: error: {one_line(error)}") from None


def read_experiment(values: Mapping[str, Any], files: Iterable[str | Path]) -> Experiment:
    """Checks values that Snakemake merged from the files; exits with one line on standard error if they are wrong."""
    values = {name: value for name, value in values.items() if name not in (INSTALLED_RELEASE, IMAGE)}
    names = list(dict.fromkeys(os.path.relpath(file) for file in files))
    try:
        for name in names[1:]:  # params.yaml has been read by check_file
            read_sections(name)
        check_plain(values, " + ".join(names))
        experiment = Experiment(check(Params, json.loads(json.dumps(values)), " + ".join(names)), names)
        experiment.check_runs(" + ".join(names))
        experiment.check_untrained(" + ".join(names))
        for model in experiment.targets.models:
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
    """Checked settings, and what the rules ask about them."""

    def __init__(self, params: Params, files: Sequence[str] = ()) -> None:
        self.params, self.files = params, files
        self.lookups = Lookups(params)
        self.targets = Targets(self.lookups)

    def settings(self, of_job: Callable[Concatenate[Params, P], Section], *args: P.args, **kwargs: P.kwargs) -> str:
        """The settings that a function of `ssmrank.jobs` returns, as JSON with sorted keys and all defaults."""
        return json.dumps(of_job(self.params, *args, **kwargs).model_dump(mode="json"), sort_keys=True)

    def collection_corpus(self, collection: str) -> list[str]:
        """The option --corpus of `ssmrank download collection`; empty unless the collection is made from a corpus."""
        corpus = self.lookups.corpus_of(collection)
        return ["--corpus", self.settings(jobs.corpus_settings, corpus)] if corpus is not None else []

    def command(self, target: str) -> str:
        """The command that makes a target, with the overlays in use, for people to read."""
        overlays = [file for file in self.files if file != "params.yaml"]
        return " ".join(["snakemake", *(["--configfile", *overlays, "--"] if overlays else []), target])

    def outside_files(self) -> list[Path]:
        """All files on this machine that the sections name, whether the experiment uses them or not."""
        runs = [one.runs.values() for one in self.params.retrievers.values() if isinstance(one, FileRetriever)]
        files = {
            *(path for name in self.params.collections for path in self.lookups.collection_files(name)),
            *(path for name in self.params.models for path in self.lookups.model_files(name) if path.is_file()),
            *(path for name in self.params.corpora for path in self.lookups.corpus_files(name)),
            *(Path(file.path) for files in runs for file in files),
        }
        return sorted(files)

    def check_runs(self, where: str) -> None:
        """Raises UserError if a needed first-stage run has no file in its retriever, or no such split."""
        for collection, split, name in self.targets.first_stages:
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
        """Raises UserError if a model that reranks without training is a folder without a trained reranker."""
        for name in dict.fromkeys(run.model for run in self.targets.reranked if run.training == NO_TRAINING):
            source = self.params.models[name].source
            if isinstance(source, ModelFolder) and not Path(source.path, _TRAINED_FILE).is_file():
                raise UserError(
                    f"{where}: models.{name}.source.path: {source.path} has no head that scores (no {_TRAINED_FILE}), "
                    f"but a table has it with training {NO_TRAINING!r}; name a training there, or give the folder of a "
                    "trained reranker (of one of another library as source {kind: cross-encoder, checkpoint: ...})"
                )
