"""Sends outputs to DVC's remote or brings them from it, with every digest checked and errors of one line.

python workflow/scripts/remote.py push|pull [--remote NAME] [STAGES OR OUTPUTS]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))

from pipeline.remote import pull, push
from ssmrank.errors import UserError, one_line


def main() -> None:
    """Does what the command line says; a UserError ends it with one line and status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["push", "pull"])
    parser.add_argument("targets", nargs="*", help="stages of dvc.yaml or their outputs; all if none is named")
    parser.add_argument("--remote", help="a remote other than the default one")
    words = parser.parse_args()
    try:
        print((push if words.step == "push" else pull)(words.targets, words.remote))
    except UserError as error:
        print(f"ssmrank: error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
