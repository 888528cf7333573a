"""Removes what no run needs any more: half-written files of killed jobs, and states of code that no longer exists.

Finished trainings and rerankings keep only the tokens of their documents, which others of the same code share. Tokens
of other code are removed here. A killed training whose code has changed since begins again.
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
    """States in the folder that this version of the code would not resume from."""
    kept = {Path(state_of(step)).name for step in STEPS}
    steps = [path for step in STEPS for path in folder.glob(f"{step}-*")]
    return sorted(path for path in steps if path.name not in kept)


def main() -> None:
    """Tidies the current folder; no run may use it meanwhile."""
    with one_line():
        alone = Alone()
        alone.run()
    for path in old_states(Path(STATE)):
        print(f"{path}: made by other code, removed")
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
