"""ssmrank: state space models as text rerankers, from raw collections to tables."""

from ssmrank._version import __version__

__all__ = ["__version__"]
