"""Settings that are sections of params.yaml, without what only tables print.

Labels and titles are replaced by the section's name, or emptied, so that a new label does not make outputs again.
"""

from __future__ import annotations

from ssmrank.config.collections import Collection
from ssmrank.config.corpora import Corpus
from ssmrank.config.encoders import Encoder
from ssmrank.config.evaluation import Evaluation
from ssmrank.config.models import Model, TrainingOverrides
from ssmrank.config.negatives import Negatives
from ssmrank.config.params import Params
from ssmrank.config.pretraining import Sweep
from ssmrank.config.rerankings import Reranking
from ssmrank.config.retrievers import Bm25, Dense, Retriever, VectorIndex
from ssmrank.config.trainings import TRAINED_SIGN


def collection_settings(params: Params, name: str) -> Collection:
    """For `ssmrank download collection`."""
    plain = {"title": name, "license": "", "queries_are_documents": False}
    return params.collections[name].model_copy(update=plain)


def corpus_settings(params: Params, name: str) -> Corpus:
    """For the commands that read a corpus."""
    return params.corpora[name].model_copy(update={"title": name, "license": ""})


def model_settings(params: Params, name: str) -> Model:
    """For `ssmrank download model`."""
    plain = {"label": name, "kind": "E", "size": "", "pretraining": "", "training": TrainingOverrides()}
    return params.models[name].model_copy(update=plain)


def encoder_settings(params: Params, name: str) -> Encoder:
    """For `ssmrank index vectors` and `ssmrank retrieve dense`."""
    return params.encoder(name).model_copy(update={"model": name.removesuffix(TRAINED_SIGN)})


def retriever_settings(params: Params, name: str, collection: str) -> Retriever:
    """For the commands that retrieve from a collection."""
    section = params.retrievers[name]
    update: dict[str, object] = {"label": name}
    if isinstance(section, Dense):
        # What makes the vectors is the encoder's.
        update |= {"encoder": section.encoder or name, "trained": None, "width": None}
    if isinstance(section, Bm25):
        parameters = section.of_collections.get(collection, section)
        update |= {"of_collections": {}, "k1": parameters.k1, "b": parameters.b}
    return section.model_copy(update=update)


def vector_index_settings(params: Params, retriever: str) -> VectorIndex:
    """For `ssmrank index faiss`."""
    section = params.retrievers[retriever]
    assert isinstance(section, Dense)
    return section.index


def negatives_settings(params: Params, name: str) -> Negatives:
    """For `ssmrank negatives`."""
    return params.negatives[name]


def reranking_settings(params: Params, name: str) -> Reranking:
    """For the commands that rerank."""
    return params.rerankings[name]


def evaluation_settings(params: Params) -> Evaluation:
    """For `ssmrank evaluate`."""
    return params.evaluation


def sweep_settings(params: Params, pretraining: str) -> Sweep:
    """For `ssmrank pretrain sweep`."""
    return params.pretraining[pretraining].sweep
