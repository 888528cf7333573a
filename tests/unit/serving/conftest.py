"""One server with the usual settings for all tests that need no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from http_client import ServerProcess, serving
from ssmrank.api import Reranker


@pytest.fixture(scope="session")
def folder(root: Path) -> Path:
    """A small reranker."""
    return root / "models/minis/mamba2"


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[ServerProcess]:
    with serving(folder, "--precision", "fp32", "--device", "cpu") as server:
        yield server


@pytest.fixture(scope="session")
def reranker(folder: Path) -> Reranker:
    """The same model in this process."""
    return Reranker.from_pretrained(folder, device="cpu", precision="fp32")
