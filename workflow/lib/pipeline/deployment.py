"""Where jobs find their packages: in this environment, in one that conda makes, or in an image of Apptainer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

IMAGE = "image"
"""Key of `snakemake --config` that names the image in which jobs run."""

LOCKS = ("setup", "main", "torch")
"""What an environment of conda is made from."""

LOCKS_DIGEST = "ssmrank-locks.sha256"
"""File of an environment of conda: the digest of its locks, which workflow/envs/ssmrank.post-deploy.sh writes."""

OTHERWISE = "or leave the option out: jobs then use the packages of this environment"


def check_deployment(tree: Path, settings: Any, config: Mapping[str, Any]) -> str | None:
    """The image in which jobs run, if any; exits with one line if jobs would not find their packages as asked for.

    `settings` are Snakemake's: the methods of --software-deployment-method, and the folder of conda's environments.
    """
    methods = {method.name.lower() for method in settings.deployment_method}
    if {"conda", "apptainer"} <= methods:
        _refuse("conda and apptainer: give one of them; the image has all packages")
    if "conda" in methods:
        _check_conda(tree, Path(settings.conda_prefix or ".snakemake/conda"))
    if "apptainer" not in methods:
        return None
    if not any(map(shutil.which, ("apptainer", "singularity"))):
        _refuse(f"no command `apptainer` or `singularity` here; install Apptainer, {OTHERWISE}")
    image = config.get(IMAGE)
    if not isinstance(image, str) or not image:
        _refuse("apptainer needs an image: --config image=FILE.sif, made with Containerfile.pipeline")
    if "://" not in image and not Path(image).exists():
        _refuse(f"image {image}: no such file; make it with Containerfile.pipeline")
    # Jobs run this tree's package, as planned, with the packages of the image.
    for program in ("APPTAINER", "SINGULARITY"):
        os.environ[f"{program}ENV_PYTHONPATH"] = str(tree / "src")
    return image


def _check_conda(tree: Path, prefix: Path) -> None:
    if shutil.which("conda") is None:
        _refuse(f"no command `conda` here; install Miniforge, {OTHERWISE}")
    for made in sorted(prefix.glob(f"*/{LOCKS_DIGEST}")):
        if made.read_text().split()[:1] != [_digest_of_locks(tree)]:
            _refuse(f"{made.parent}: made from other locks than those in requirements; delete it and start again")


def _digest_of_locks(tree: Path) -> str:
    """The SHA-256 of the locks that an environment of conda is made from, one after another."""
    return sha256(b"".join((tree / f"requirements/{lock}.lock").read_bytes() for lock in LOCKS)).hexdigest()


def _refuse(message: str) -> NoReturn:
    raise SystemExit(f"ssmrank: error: --software-deployment-method: {message}")
