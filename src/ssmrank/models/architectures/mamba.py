"""Mamba-1: Gu and Dao 2023."""

from ssmrank.models.architecture import Architecture
from ssmrank.models.mamba import mamba1_forward, mamba1_token, projections

ARCHITECTURE = Architecture(
    model_type="mamba",
    causal=True,
    forward=mamba1_forward,
    scored_token=mamba1_token,
    attention=False,
    replaced={},
    shards=projections,
    # These project to and from step sizes. They are small, and an exponential would amplify their error.
    not_float8=frozenset({"x_proj", "dt_proj"}),
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
)
