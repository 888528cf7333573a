"""Mamba-3: Lahoti et al. 2026, with one input and one output; checkpoints of flash-linear-attention."""

from transformers import PreTrainedConfig

from ssmrank.models.architecture import Architecture, is_positive
from ssmrank.models.mamba import projections
from ssmrank.models.mamba3 import mamba3_forward, mamba3_token
from ssmrank.models.mamba3_modules import Mamba3Config, Mamba3Model


def _problem(config: PreTrainedConfig) -> str:
    for name in ("head_dim", "hidden_size", "state_size", "num_hidden_layers", "n_groups"):
        if not is_positive(value := getattr(config, name)):
            return f"{name} is {value!r}, but must be a positive integer"
    for name in ("expand", "rope_fraction", "A_floor", "norm_eps"):
        value = getattr(config, name)
        if not isinstance(value, int | float) or value <= 0:
            return f"{name} is {value!r}, but must be a positive number"
    width = int(config.expand * config.hidden_size)
    heads = width // config.head_dim
    if config.is_mimo:
        return "is_mimo: true (several inputs and outputs) is not supported; only false is"
    if config.hidden_act != "silu":
        return f"hidden_act {config.hidden_act} is not supported; only silu is"
    if config.rope_fraction not in (0.5, 1.0):
        return f"rope_fraction {config.rope_fraction} is not supported; only 0.5 and 1.0 are"
    if width % config.head_dim:
        return f"head_dim {config.head_dim} does not divide expand · hidden_size {width}"
    if config.state_size * config.rope_fraction < 2:
        return (
            f"state_size {config.state_size} is too small for rope_fraction {config.rope_fraction}: no pair would turn"
        )
    if heads % config.n_groups:
        return f"n_groups {config.n_groups} does not divide the number of heads {heads}"
    return ""


ARCHITECTURE = Architecture(
    model_type="mamba3",
    causal=True,
    forward=mamba3_forward,
    scored_token=mamba3_token,
    attention=False,
    replaced={},
    shards=projections,
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
    classes=(Mamba3Config, Mamba3Model),
    problem=_problem,
)
