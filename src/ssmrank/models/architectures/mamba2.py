"""Mamba-2: Dao and Gu 2024."""

from transformers import PreTrainedConfig

from ssmrank.models.architecture import Architecture
from ssmrank.models.mamba import fold_mamba2, mamba2_forward, mamba2_token, projections


def _problem(config: PreTrainedConfig) -> str:
    if tuple(config.time_step_limit) != (0.0, float("inf")):
        return f"time_step_limit {config.time_step_limit} is not supported; only [0, Infinity] is"
    return ""


ARCHITECTURE = Architecture(
    model_type="mamba2",
    causal=True,
    forward=mamba2_forward,
    scored_token=mamba2_token,
    attention=False,
    replaced={},
    shards=projections,
    prepare=fold_mamba2,
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
    problem=_problem,
)
