"""Rerankers: backbones in packed form, input templates, pooling, checkpoints.

`load_reranker(folder)` loads a trained reranker; `Reranker.score(query, documents)` scores with it.
"""

from ssmrank.models.reranker import Reranker, load_reranker

__all__ = ["Reranker", "load_reranker"]
