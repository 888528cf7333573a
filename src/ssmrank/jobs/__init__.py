"""The settings that each job of the workflow is handed: those of one subcommand, taken from the whole params.yaml.

A job depends on exactly what it is handed. Settings therefore contain nothing that cannot change the job's outputs.
"""

from __future__ import annotations

from ssmrank.jobs.costs import cost_settings, efficiency_settings, token_figure_settings
from ssmrank.jobs.fusions import (
    fuse_first_stage_settings,
    fuse_first_stage_weights_settings,
    fuse_settings,
    fuse_weights_settings,
)
from ssmrank.jobs.overviews import overview_settings
from ssmrank.jobs.pretraining import card_settings, pretrain_settings
from ssmrank.jobs.sections import (
    collection_settings,
    corpus_settings,
    encoder_settings,
    evaluation_settings,
    model_settings,
    negatives_settings,
    reranking_settings,
    retriever_settings,
    sweep_settings,
    vector_index_settings,
)
from ssmrank.jobs.tables import (
    compared_metrics,
    compared_runs,
    comparison_settings,
    significance_settings,
    table_settings,
)
from ssmrank.jobs.trainings import teach_settings, train_settings

__all__ = [
    "card_settings",
    "collection_settings",
    "compared_metrics",
    "compared_runs",
    "comparison_settings",
    "corpus_settings",
    "cost_settings",
    "efficiency_settings",
    "encoder_settings",
    "evaluation_settings",
    "fuse_first_stage_settings",
    "fuse_first_stage_weights_settings",
    "fuse_settings",
    "fuse_weights_settings",
    "model_settings",
    "negatives_settings",
    "overview_settings",
    "pretrain_settings",
    "reranking_settings",
    "retriever_settings",
    "significance_settings",
    "sweep_settings",
    "table_settings",
    "teach_settings",
    "token_figure_settings",
    "train_settings",
    "vector_index_settings",
]
