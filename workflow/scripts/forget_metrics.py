"""Deletes metrics of runs that no table names any more, so that `dvc metrics` shows none as current.

python workflow/scripts/forget_metrics.py [OVERLAYS OF params.yaml]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))

from pipeline.experiment import Experiment, fill, read_files


def forget(experiment: Experiment, folders: list[Path]) -> list[Path]:
    """Deletes what is not the experiment's; returns the deleted files."""
    kept = {
        *fill("{collection}/{split}/{retriever}.json", experiment.evaluated_first_stages()),
        *fill("{collection}/{split}/{reranking}/{training}/{model}.json", experiment.evaluated_reranked()),
        *fill("{collection}/{split}/{reranking}/{training}/{model}/{fusion}.json", experiment.fused()),
    }
    found = [(folder, path) for folder in folders for path in sorted(folder.rglob("*.json"))]
    stale = [path for folder, path in found if path.relative_to(folder).as_posix() not in kept]
    for path in stale:
        path.unlink()
    return stale


if __name__ == "__main__":
    forget(read_files("params.yaml", *sys.argv[1:]), [Path("results/metrics"), Path("results/per-query")])
