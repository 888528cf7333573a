"""What MLflow's page shows of an experiment: a column for each metric of its trainings."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssmrank.config.metrics import ALIASES, MEASURES

if TYPE_CHECKING:
    from mlflow import MlflowClient

_VIEW = "metrics"
"""Names the view of the page that shows metrics."""

_PIXELS_A_SIGN = 8
"""Width of a sign in the head of a column of MLflow's page, at most."""

_MEAN = re.compile(rf"/({'|'.join([*MEASURES, *ALIASES])})(_at_|_|$)[^/]*$")
"""Metrics of evaluations among all that are logged."""

_EXPERIMENT_TAG_LENGTH = 20_000
"""MLflow refuses longer ones."""


def describe(client: MlflowClient, experiment_id: str) -> None:
    """Has MLflow's page show trainings with their metrics: a shared view with a column for each, and a link to it.

    By itself the page opens on an empty overview of another use of MLflow, and its list of runs has no metrics.
    """
    runs = client.search_runs([experiment_id], max_results=1000)
    columns = sorted({name for run in runs for name in run.data.metrics if _MEAN.search(name)})
    tags = sorted({"collection", "seed"} & {name for run in runs for name in run.data.tags})
    while len(view := json.dumps(_view(columns, tags))) > _EXPERIMENT_TAG_LENGTH:
        columns = columns[: 9 * len(columns) // 10]  # the others can be chosen on the page
    link = f"#/experiments/{experiment_id}/runs?viewStateShareKey={_VIEW}&workflowType=machine_learning"
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{_VIEW}", view)
    known = client.get_experiment(experiment_id).tags
    for key, value in (
        ("mlflow.experimentKind", "custom_model_development"),
        ("mlflow.note.content", f"[Trainings and their metrics]({link})"),
    ):
        if key not in known:  # a person may have written another note
            client.set_experiment_tag(experiment_id, key, value)


def _view(metrics: Sequence[str], tags: Sequence[str]) -> dict[str, Any]:
    columns = [f"metrics.`{name}`" for name in metrics]
    selected = [*columns, *(f"tags.`{name}`" for name in tags)]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": selected,
        "columnOrder": selected,
        # By itself a column has 100 pixels, which hide all of a metric's name but its collection.
        "columnWidths": {column: _PIXELS_A_SIGN * len(column) for column in columns},
        "runsPinned": [],
        "runsHidden": [],
        "runsExpanded": {},
    }
