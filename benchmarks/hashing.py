"""How long it takes until both this project and DVC know a large output.

    python benchmarks/hashing.py --gigabytes 20

The output is a sparse file in a temporary DVC repository. Measured are the seconds of our pass over it, of
`dvc add --no-commit` after that (which asks DVC for the file's digest, without a copy) and of our second pass. For
comparison, so are `dvc add --no-commit` when DVC was told nothing, and SHA-256 alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/lib"))

from pipeline.contents import Contents
from ssmrank.io.checksum import sha256


def measure(name: str, action: Callable[[], object]) -> None:
    start = time.perf_counter()
    action()
    print(f"{name:34} {time.perf_counter() - start:7.1f} s", flush=True)


def dvc(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], check=True, stdout=subprocess.DEVNULL)


def our_pass(path: Path) -> None:
    contents = Contents(Path(".snakemake/contents.json"))
    contents.sha256(path)
    contents.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"DVC_SITE_CACHE_DIR": f"{folder}/site", "DVC_NO_ANALYTICS": "1"}
        dvc("init", "--quiet", "--no-scm")
        path = Path("data/large/numbers")
        path.parent.mkdir(parents=True)
        path.touch()
        os.truncate(path, int(arguments.gigabytes * 1e9))
        measure("our pass", lambda: our_pass(path.parent))
        measure("dvc add --no-commit after it", lambda: dvc("add", "--quiet", "--no-commit", "data/large"))
        measure("our second pass", lambda: our_pass(path.parent))
        os.utime(path)
        measure("dvc add --no-commit by itself", lambda: dvc("add", "--quiet", "--no-commit", "data/large"))
        measure("SHA-256 by itself", lambda: sha256(path))
        os.chdir("/")


if __name__ == "__main__":
    main()
