"""BERT: Devlin et al. 2019."""

from transformers.models.bert.modeling_bert import BertOutput, BertPredictionHeadTransform, BertSelfOutput

from ssmrank.models.architecture import Architecture
from ssmrank.models.bert_family import encoder_token, norms

ARCHITECTURE = Architecture(
    model_type="bert",
    causal=False,
    scored_token=encoder_token,
    learned_positions=True,
    options={"add_pooling_layer": False},
    replaced=norms(BertOutput, BertSelfOutput),
    masked_head=BertPredictionHeadTransform,
)
