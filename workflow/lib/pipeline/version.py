"""Which Snakemake this project works with."""

from __future__ import annotations

TRIED = "9.27"
"""`records.py` uses parts of Snakemake that may change with any minor or major version."""


def check_snakemake(version: str) -> None:
    """Exits with one line on standard error unless this version was tried."""
    if version.split(".")[:2] != TRIED.split("."):
        raise SystemExit(
            f"ssmrank: error: Snakemake {version} was not tried: what it records of outputs may be read wrongly; "
            f"install {TRIED}.* (`make`, or `pip install 'snakemake=={TRIED}.*'`)"
        )
