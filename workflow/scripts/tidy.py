"""Removes what no run needs any more: what killed jobs left half-written, and states of code that no longer exists.

Trainings and rerankings that are done keep nothing but the tokens of their documents, which others of the same code
share; those of other code go here. A training that was killed and whose code has changed since begins again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))

from pipeline.alone import Alone, one_line
from pipeline.code import STEPS, state_of
from pipeline.paths import STATE


def old_states(folder: Path) -> list[Path]:
    """States in the folder that this version of the code would not go on from."""
    kept = {Path(state_of(step)).name for step in STEPS}
    steps = [path for step in STEPS for path in folder.glob(f"{step}-*")]
    return sorted(path for path in steps if path.name not in kept)


def main() -> None:
    """Tidies the folder in which it is started, which no run may use meanwhile."""
    with one_line():
        alone = Alone()
        alone.run()
    for path in old_states(Path(STATE)):
        print(f"{path}: of other code, removed")
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
