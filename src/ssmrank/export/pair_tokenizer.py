"""A tokenizer whose encoding of a sentence pair is a reranker's input.

The template of tokenizer.json holds the words around query and document as tokens: `[CLS]; query:`, the query, `;
document:`, the document. So whatever reads pairs with this tokenizer (sentence-transformers, Text Embeddings Inference,
vLLM) feeds the reranker as it was trained, and `truncation="only_second"` cuts the document alone. The tokens are the
reranker's own if the vocabulary never joins the `;` to the word before it, as WordPiece never does. Byte-level BPE may:
`);` can be one token. `differing` finds such texts.
"""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from ssmrank.config.models import SIDES, ReadingOrder
from ssmrank.errors import UserError
from ssmrank.models.reranker import Reranker

log = logging.getLogger(__name__)

SIDE_OF = {"q": "A", "d": "B"}
"""A pair's first text is the query."""

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TEXTS = ("", "a", "a word", "a ", "(a)", "Ünïcode 日本語", "two\nlines", "[SEP] </s>", "state space models " * 200)


def order_of(reranker: Reranker) -> str:
    """The sides of a sequence in their order: q for the query, d for the document."""
    return SIDES[cast("ReadingOrder", reranker.template.order)]


def reads_twice(reranker: Reranker) -> str:
    """What a sequence has two copies of, query or document; empty if it has one of each."""
    template = reranker.template
    return "query" if template.query_copies > 1 else "document" if template.document_copies > 1 else ""


def pair_tokenizer(reranker: Reranker) -> PreTrainedTokenizerFast:
    """The tokenizer, with `model_max_length` as the longest input.

    Raises UserError if the reranker reads query or document twice, or its tokenizer is none of the library
    `tokenizers`.
    """
    backend, twice = getattr(reranker.tokenizer, "backend_tokenizer", None), reads_twice(reranker)
    if backend is None or twice:
        reason = "its tokenizer has no tokenizer.json" if backend is None else f"it reads the {twice} twice"
        raise UserError(f"a pair template cannot hold its input: {reason}; only format sentence-transformers can")
    described = json.loads(backend.to_str())
    described["post_processor"] = _pair_template(reranker)
    described["truncation"] = described["padding"] = None
    tokenizer = Tokenizer.from_str(json.dumps(described))
    if described["model"]["type"] != "WordPiece":  # BPE reads a word at a text's start otherwise than after a space
        space = normalizers.Prepend(" ")
        tokenizer.normalizer = normalizers.Sequence([space, *([tokenizer.normalizer] if tokenizer.normalizer else [])])
    own = reranker.tokenizer
    special = {name: getattr(own, name) for name in _NAMES if getattr(own, name) is not None}
    special.setdefault("pad_token", special.get("eos_token") or special.get("sep_token"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=reranker.settings.max_length,
        padding_side="right",
        truncation_side="right",
        split_special_tokens=True,
        **special,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes tokenizer.json and its settings, under the class name that all versions of transformers know."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "backend"):
        settings.pop(key, None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def differing(reranker: Reranker, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Texts, of many odd ones, that become other tokens than the reranker's, as a query or as a document."""
    return [
        text
        for text in _texts(reranker)
        if not (_same(reranker, tokenizer, text, "a") and _same(reranker, tokenizer, "a", text))
    ]


def warn_of_tokens(texts: list[str]) -> None:
    """Logs which texts become other tokens, if there are any."""
    if texts:
        shown = ", ".join(repr(text) for text in texts[:3])
        log.warning("some texts, such as %s, become other tokens than in ssmrank, so their scores differ", shown)


def _pair_template(reranker: Reranker) -> dict[str, object]:
    template = reranker.template
    around = {"q": template.around_query, "d": template.around_document}
    pieces: list[dict[str, object]] = []
    special: dict[str, object] = {}

    def add(ids: list[int]) -> None:
        if ids:
            name = f"[piece {len(special)}]"
            tokens = template.tokenizer.convert_ids_to_tokens(ids)
            special[name] = {"id": name, "ids": ids, "tokens": tokens}
            pieces.append({"SpecialToken": {"id": name, "type_id": 0}})

    add(list(template.before))
    for side in order_of(reranker):
        begin, end = around[side]
        add(_ids(reranker, begin.rstrip(" ")))
        pieces.append({"Sequence": {"id": SIDE_OF[side], "type_id": 0}})
        add(_ids(reranker, end) if end else [])
    add(list(template.after))
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pieces, "special_tokens": special}


def _ids(reranker: Reranker, text: str) -> list[int]:
    return list(reranker.tokenizer.encode(text, add_special_tokens=False))


def _texts(reranker: Reranker) -> Iterator[str]:
    yield from _TEXTS
    yield from (f"a{sign}" for sign in string.punctuation)
    # What the vocabulary joins with the separator is the likeliest to differ.
    tokenizer, separator = reranker.tokenizer, reranker.template.around_query[1]
    for token in sorted(tokenizer.get_vocab()):
        if token.endswith(separator) and token != separator:
            text = tokenizer.convert_tokens_to_string([token]).removesuffix(separator)
            yield from (text, f"a{text}")


def _same(reranker: Reranker, tokenizer: PreTrainedTokenizerFast, query: str, document: str) -> bool:
    longest = reranker.settings.max_length
    template = reranker.template
    [asked], [read] = template.tokenize_queries([query]), template.tokenize_documents([document])
    if template.cuts(len(asked), longest):
        return True  # a pair template refuses such a query, which is said in the documentation
    own = template.join(asked, read, longest)
    [ids] = tokenizer([(query, document)], truncation="only_second")["input_ids"]
    return np.array_equal(own, ids)
