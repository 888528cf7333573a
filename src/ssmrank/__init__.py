"""ssmrank: state space models as text rerankers, from raw collections to tables."""

__version__ = "0.1.0"
