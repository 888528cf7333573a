"""Llama: Touvron et al. 2023."""

from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ssmrank.models.architecture import Architecture
from ssmrank.models.llama_family import faster_norm, llama_token

ARCHITECTURE = Architecture(
    model_type="llama",
    causal=True,
    scored_token=llama_token,
    replaced=faster_norm(LlamaRMSNorm),
)
