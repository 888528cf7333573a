"""Lists what the experiment reads from outside the workflow, so that DVC notices changes.

python workflow/scripts/list_sources.py [OVERLAYS OF params.yaml]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))

from pipeline.contents import Contents, write_json
from pipeline.experiment import Experiment, read_files
from pipeline.paths import PROVENANCE


def sources(experiment: Experiment, contents: Contents) -> dict[str, Any]:
    """The settings, the overlays merged into them, and the digest of each file on this machine that they name."""
    paths = experiment.outside_files()
    settings = experiment.params.model_dump(mode="json")
    return {"settings": settings, "files": contents.lines(paths), "missing": [str(p) for p in paths if not p.exists()]}


if __name__ == "__main__":
    contents = Contents(Path(".snakemake/contents.json"))
    listed = sources(read_files("params.yaml", *sys.argv[1:]), contents)
    write_json(Path(PROVENANCE, "sources.json"), json.loads(json.dumps(listed, sort_keys=True)))
    contents.save()
