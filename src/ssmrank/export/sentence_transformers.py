"""A folder that `sentence_transformers.CrossEncoder` reads: transformer, pooling and a linear layer as modules.

The first module reads pairs with sentence-transformers' own classes if a pair template of the tokenizer gives the
reranker's tokens for every text, and else with `ssmrank_input.py`, which is copied into the folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from ssmrank import __version__
from ssmrank.export.classifier import linear_head
from ssmrank.export.pair_tokenizer import (
    differing,
    order_of,
    pair_tokenizer,
    reads_twice,
    save_tokenizer,
    warn_of_tokens,
)
from ssmrank.models.architectures import architecture_of
from ssmrank.models.backbones import output_width
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reranker import Reranker
from ssmrank.models.templates import COPY_STEP

REQUIRES = ">=5.7"
"""The versions of sentence-transformers that read these folders."""

_CODE = "ssmrank_input"
_MODULES = "sentence_transformers.base.modules"
_POOLING = {"first": "cls", "last": "lasttoken", "mean": "mean"}
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


def write_cross_encoder(reranker: Reranker, folder: Path, without_code: bool = False) -> bool:
    """Writes the reranker into an existing folder; returns whether a file of code is in it.

    without_code: no such file, also where some texts then become other tokens. Raises UserError if the reranker cannot
    be written without code.
    """
    tokenizer = _pair_tokenizer(reranker, without_code)
    code = tokenizer is None
    with quiet_transformers():
        reranker.backbone.save_pretrained(folder)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    else:
        _save_own_tokenizer(reranker, folder)
        shutil.copy(Path(__file__).with_name(f"{_CODE}.py"), folder)
    _write_json(folder / "sentence_bert_config.json", _transformer(reranker, code))
    names = [
        ("0", "", f"{_CODE}.PairTransformer" if code else f"{_MODULES}.Transformer"),
        ("1", "1_Pooling", "sentence_transformers.sentence_transformer.modules.Pooling"),
        ("2", "2_Dense", f"{_MODULES}.Dense"),
    ]
    modules = [{"idx": int(name), "name": name, "path": path, "type": kind} for name, path, kind in names]
    _write_json(folder / "modules.json", modules)
    _write_pooling(reranker, folder / "1_Pooling")
    _write_dense(reranker, folder / "2_Dense")
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "CrossEncoder",
            "requirements": {"sentence-transformers": REQUIRES},
            "activation_fn": "torch.nn.modules.linear.Identity",
            "prompts": {},
            "default_prompt_name": None,
            "ssmrank": __version__,
        },
    )
    return code


def _pair_tokenizer(reranker: Reranker, without_code: bool) -> PreTrainedTokenizerFast | None:
    """The tokenizer whose pair template gives the reranker's tokens, if there is one or none other is wanted."""
    if reads_twice(reranker) and not without_code:
        return None
    tokenizer = pair_tokenizer(reranker)
    odd = differing(reranker, tokenizer)
    if without_code:
        warn_of_tokens(odd)
    return tokenizer if without_code or not odd else None


def _save_own_tokenizer(reranker: Reranker, folder: Path) -> None:
    """Writes the reranker's own tokenizer, which gets a token for padding if it has none."""
    tokenizer = reranker.tokenizer
    lacks = tokenizer.pad_token is None
    if lacks:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    with quiet_transformers():
        tokenizer.save_pretrained(folder)
    if lacks:
        tokenizer.pad_token = None


def _transformer(reranker: Reranker, code: bool) -> dict[str, Any]:
    options = dict(architecture_of(reranker.backbone.config.model_type).options)
    settings = {**_TRANSFORMER, **({"model_kwargs": options} if options else {})}
    if not code:
        text = {"truncation": "only_second", "split_special_tokens": True}
        return {**settings, "max_seq_length": reranker.settings.max_length, "processing_kwargs": {"text": text}}
    template = reranker.template
    return {
        **settings,
        "pair_input": {
            "order": order_of(reranker),
            "sides": {"q": template.around_query, "d": template.around_document},
            "before": list(template.before),
            "after": list(template.after),
            "separator": list(template.separator),
            "copy_step": COPY_STEP,
            "max_length": reranker.settings.max_length,
        },
    }


def _write_pooling(reranker: Reranker, folder: Path) -> None:
    folder.mkdir()
    pooling = _POOLING[reranker.settings.pooled]
    width = output_width(reranker.backbone.config)
    _write_json(folder / "config.json", {"embedding_dimension": width, "pooling_mode": pooling, "include_prompt": True})


def _write_dense(reranker: Reranker, folder: Path) -> None:
    folder.mkdir()
    head = linear_head(reranker)
    settings = {
        "in_features": head.in_features,
        "out_features": 1,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "sentence_embedding",
        "module_output_name": "scores",
    }
    _write_json(folder / "config.json", settings)
    weights = {"linear.weight": head.weight.detach().contiguous(), "linear.bias": head.bias.detach().contiguous()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
