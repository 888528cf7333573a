"""The files of a folder from which a model is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

TRAINED_FILE = "reranker.json"
"""The file with a reranker's settings, in the folder of its weights."""
BI_ENCODER_FILE = "bi_encoder.json"
"""The file with the settings of a bi-encoder that was trained here, in the folder of its weights."""

TRAINING_FILE = "training.json"
"""In a checkpoint: the settings of its training, and what is known of the model that it started from."""
PRETRAINING_FILE = "pretraining.json"
"""In a model that was pretrained here: settings, counts and the loss."""
COMMITS_FILE = "hub.json"
"""In a downloaded model: the commit of each repository that its files came from."""
PROVENANCE_FILES = (TRAINING_FILE, "outcome.json", PRETRAINING_FILE, "sweep.json", COMMITS_FILE)
"""The files of a checkpoint that say how it was made; none is needed to load it."""

SAFE_WEIGHTS = ("*.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
GGUF_WEIGHTS = ("*.gguf",)
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
TOKENIZER_SETTINGS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
SENTENCE_TRANSFORMERS = ("modules.json", "sentence_bert_config.json", "*_Pooling/config.json")
"""The files that say how a bi-encoder pools the states of a text into a vector (ssmrank/retrieval/encoder.py)."""
CROSS_ENCODER = ("config_sentence_transformers.json", "*_Dense/config.json", "*_Dense/model.safetensors")
"""What else sentence-transformers says of a cross-encoder."""
TOKENIZER_FILES = VOCABULARIES + TOKENIZER_SETTINGS


def wanted_files(names: Iterable[str], weights: bool) -> list[str]:
    """The files of a checkpoint that are needed: the tokenizer; with `weights` also config and one weights format."""
    everything = list(names)
    names = [name for name in everything if "/" not in name]
    if not weights:
        return select(names, TOKENIZER_FILES)
    formats = next((f for f in (SAFE_WEIGHTS, PICKLED_WEIGHTS, GGUF_WEIGHTS) if select(names, f[:1])), ())
    wanted = {*select(names, ("config.json", TRAINED_FILE, BI_ENCODER_FILE, *TOKENIZER_FILES, *formats))}
    return [name for name in everything if name in wanted or select([name], SENTENCE_TRANSFORMERS)]


def model_files(folder: Path) -> list[str]:
    """The relative paths of the files in a checkpoint's folder and in its direct subfolders, sorted."""
    paths = [path for path in [*folder.glob("*"), *folder.glob("*/*")] if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def select(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that match one of the patterns."""
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
