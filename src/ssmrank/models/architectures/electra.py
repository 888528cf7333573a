"""ELECTRA's discriminator: Clark et al. 2020."""

from transformers.models.electra.modeling_electra import (
    ElectraGeneratorPredictions,
    ElectraOutput,
    ElectraSelfOutput,
)

from ssmrank.models.architecture import Architecture
from ssmrank.models.bert_family import encoder_token, norms

ARCHITECTURE = Architecture(
    model_type="electra",
    causal=False,
    scored_token=encoder_token,
    learned_positions=True,
    replaced=norms(ElectraOutput, ElectraSelfOutput),
    masked_head=ElectraGeneratorPredictions,
)
