"""Settings of the subcommands that fuse runs."""

from __future__ import annotations

from ssmrank.config.fusions import FittedWeights, FuseSettings, FuseWeightsSettings, FusionMethod
from ssmrank.config.params import Params
from ssmrank.config.retrievers import FusedRetriever


def fuse_settings(params: Params, fusion: str, reranking: str) -> FuseSettings:
    """For `ssmrank fuse run` of reranked runs."""
    return _fuse(params.fusions[fusion], params.rerankings[reranking].depth)


def fuse_weights_settings(params: Params, fusion: str, reranking: str) -> FuseWeightsSettings:
    """For `ssmrank fuse weights` of reranked runs."""
    return _fit(params.fusions[fusion], params.rerankings[reranking].depth)


def fuse_first_stage_settings(params: Params, retriever: str) -> FuseSettings:
    """For `ssmrank fuse run` of first-stage runs."""
    section = _fused_retriever(params, retriever)
    return _fuse(section, section.depth)


def fuse_first_stage_weights_settings(params: Params, retriever: str) -> FuseWeightsSettings:
    """For `ssmrank fuse weights` of first-stage runs."""
    section = _fused_retriever(params, retriever)
    return _fit(section, section.depth)


def _fused_retriever(params: Params, retriever: str) -> FusedRetriever:
    section = params.retrievers[retriever]
    assert isinstance(section, FusedRetriever)
    return section


def _fuse(fusion: FusionMethod, depth: int) -> FuseSettings:
    weights = fusion.weights if isinstance(fusion.weights, list) else None
    return FuseSettings(**fusion.how, depth=depth, weights=weights)


def _fit(fusion: FusionMethod, depth: int) -> FuseWeightsSettings:
    assert isinstance(fusion.weights, FittedWeights)
    return FuseWeightsSettings(**fusion.how, metric=fusion.weights.metric, steps=fusion.weights.steps, depth=depth)
