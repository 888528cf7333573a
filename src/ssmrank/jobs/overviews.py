"""Settings of tables of models and of trainings."""

from __future__ import annotations

from ssmrank.config.models import Model
from ssmrank.config.overview_settings import OverviewRow, OverviewSection, OverviewSettings
from ssmrank.config.overviews import ModelsOverview
from ssmrank.config.params import Params
from ssmrank.config.trainings import RerankerRow, TrainSettings
from ssmrank.jobs.trainings import train_settings

_KINDS = {"E": "encoder", "ED": "encoder-decoder", "D": "decoder"}


def overview_settings(params: Params, name: str) -> OverviewSettings:
    """For `ssmrank table overview`: what overview `name` prints."""
    overview = params.overviews[name]
    if isinstance(overview, ModelsOverview):
        columns = ["Model", "Kind", "Size", "Tokens of pretraining", "Parameters"]
        sections = [
            OverviewSection(
                title=section.title,
                rows=[OverviewRow(cells=_model_cells(params.models[model]), counted=model) for model in section.models],
            )
            for section in overview.sections
        ]
    else:
        columns = list(_training_cells(params, overview.sections[0].rerankers[0]))
        sections = [
            OverviewSection(
                title=section.title,
                rows=[OverviewRow(cells=list(_training_cells(params, row).values())) for row in section.rerankers],
            )
            for section in overview.sections
        ]
    return OverviewSettings(caption=overview.caption.strip(), label=overview.label, columns=columns, sections=sections)


def _model_cells(model: Model) -> list[str]:
    return [model.label, _KINDS[model.kind], model.size, model.pretraining or "none"]


def _training_cells(params: Params, row: RerankerRow) -> dict[str, str]:
    settings = train_settings(params, row.training, row.model)
    training = params.trainings[row.training]
    return {
        "Model": params.models[row.model].label,
        "Length": training.label,
        "LR": f"{settings.learning_rate:g}",
        "Global batch": f"{settings.batch_groups} × {1 + settings.negatives_count}",
        "Epochs": f"{settings.epochs:g}" if settings.groups is None else f"{settings.groups:,} groups",
        "Warm-up": f"{settings.warmup_ratio:.0%}",
        "Weight decay": f"{settings.weight_decay:g}",
        "Precision": _precision(settings),
        "Seeds": str(len(training.seeds) or 1),
    }


def _precision(settings: TrainSettings) -> str:
    return {"auto": "bf16 AMP*", "bf16": "bf16 AMP", "fp32": "fp32"}[settings.precision]
