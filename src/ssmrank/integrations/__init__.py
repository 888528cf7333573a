"""Rerankers in other libraries: PyTerrier, MTEB and MLflow. Each module needs the extra of its name."""

from __future__ import annotations

from ssmrank.errors import UserError


def missing(library: str, extra: str) -> UserError:
    """The error of a module whose library is not installed."""
    return UserError(f"{library} is not installed; pip install 'ssmrank[{extra}]'")
