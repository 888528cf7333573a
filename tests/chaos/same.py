"""Compares a disturbed project with an undisturbed one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from chaos.disturbed import temporary_folder
from projects import Project
from ssmrank.io.leftovers import sweep
from ssmrank.tracking.run_metadata import SUFFIX

RESULTS = ("data/collections/", "data/models/", *(f"results/{name}/" for name in ("runs", "negatives", "metrics")))
RESULTS += ("results/per-query/", "results/tables/")


def assert_same(project: Project, undisturbed: Project) -> None:
    """Asserts that runs, metrics, tables and weights are the same bytes, and nothing is left over or left to do."""
    ours, theirs = _results(project), _results(undisturbed)
    assert ours.keys() == theirs.keys()
    assert [name for name, content in theirs.items() if ours[name] != content] == []
    assert _left(project) == []
    assert _states(project) == _states(undisturbed)
    assert _losses(project) == _losses(undisturbed)
    assert project.planned() == {}


def _results(project: Project) -> dict[str, bytes]:
    files = project.files()
    # A run's description has times.
    kept = {name: content for name, content in files.items() if not name.endswith(SUFFIX)}
    return {name: kept[name] for name in kept if name.startswith(RESULTS) or name.endswith("/model.safetensors")}


def _left(project: Project) -> list[Path]:
    folder = project.folder
    snakemake = [*folder.glob(".snakemake/locks/*"), *folder.glob(".snakemake/incomplete/*")]
    own = [*folder.glob(".snakemake/run.lock"), *folder.glob("results/tracking/*"), *folder.glob("mlflow.db.lock")]
    return [*snakemake, *own, *sweep(folder), *sweep(temporary_folder(project))]


def _states(project: Project) -> set[str]:
    states = project.folder / "results/state"
    return {path.relative_to(states).as_posix() for path in states.rglob("*") if path.is_file()}


def _losses(project: Project) -> dict[str, set[int]]:
    """The steps of each training for which MLflow has a loss."""
    query = "select name, step from metrics join runs using (run_uuid) where key = 'loss'"
    losses: dict[str, set[int]] = {}
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as database:
        for name, step in database.execute(query):
            losses.setdefault(name, set()).add(step)
    return losses
