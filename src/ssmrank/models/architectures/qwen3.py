"""Qwen3: Yang et al. 2025. Llama's layers, with norms of queries and keys."""

from functools import partial

from transformers import PreTrainedConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from ssmrank.models.architecture import Architecture
from ssmrank.models.llama_family import faster_norm, heads_problem, llama_token, normed_heads


def _problem(config: PreTrainedConfig) -> str:
    if "sliding_attention" in config.layer_types:
        return "use_sliding_window is not supported; no published Qwen3 has it"
    return heads_problem(config)


ARCHITECTURE = Architecture(
    model_type="qwen3",
    causal=True,
    scored_token=partial(llama_token, heads=normed_heads),
    replaced=faster_norm(Qwen3RMSNorm),
    problem=_problem,
)
