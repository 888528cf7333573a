"""Deletes metrics of runs that no table names any more, so that `dvc metrics` shows none as current.

python workflow/scripts/forget_metrics.py [OVERLAYS OF params.yaml]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))

from pipeline.experiment import Experiment, read_files
from pipeline.items import fill
from pipeline.paths import FIRST_STAGE, FUSED, METRICS, PER_QUERY, RERANKED


def forget(experiment: Experiment, folders: list[Path]) -> list[Path]:
    """Deletes files that are not the experiment's; returns them."""
    kept = {
        *fill(f"{FIRST_STAGE}.json", experiment.targets.evaluated_first_stages),
        *fill(f"{RERANKED}.json", experiment.targets.evaluated_reranked),
        *fill(f"{FUSED}.json", experiment.targets.fused),
    }
    found = [(folder, path) for folder in folders for path in sorted(folder.rglob("*.json"))]
    stale = [path for folder, path in found if path.relative_to(folder).as_posix() not in kept]
    for path in stale:
        path.unlink()
    return stale


if __name__ == "__main__":
    forget(read_files("params.yaml", *sys.argv[1:]), [Path(METRICS), Path(PER_QUERY)])
