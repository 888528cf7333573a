from __future__ import annotations

import numpy as np
import pytest

from ssmrank.errors import UserError
from ssmrank.models.templates import Template


def text_of(template, ids):
    return " ".join(template.tokenizer.convert_ids_to_tokens(ids.tolist()))


def test_decoder_template(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D")
    [query], [document] = template.tokenize_queries(["mamba scan"]), template.tokenize_documents(["state space"])
    joined = template.join(query, document, 64)
    assert text_of(template, joined) == "document : state space ; query : mamba scan ; [SEP]"


@pytest.mark.parametrize("kind", ["E", "ED"])
def test_encoder_template(tiny_tokenizer, kind):
    template = Template.of(tiny_tokenizer, kind)
    [query], [document] = template.tokenize_queries(["mamba scan"]), template.tokenize_documents(["state space"])
    joined = template.join(query, document, 64)
    assert text_of(template, joined) == "[CLS] ; query : mamba scan ; document : state space"


def test_the_document_is_cut_and_the_query_never(tiny_tokenizer):
    decoder, encoder = Template.of(tiny_tokenizer, "D"), Template.of(tiny_tokenizer, "E")
    text = "state space models rank text passages"
    for template, expected in [
        (decoder, "document : state space ; query : mamba scan ; [SEP]"),
        (encoder, "[CLS] ; query : mamba scan ; document : state space"),
    ]:
        [query], [document] = template.tokenize_queries(["mamba scan"]), template.tokenize_documents([text])
        joined = template.join(query, document, len(expected.split()))
        assert text_of(template, joined) == expected


def test_every_length_keeps_the_query_whole(tiny_tokenizer):
    for kind in ("D", "E"):
        template = Template.of(tiny_tokenizer, kind)
        [query] = template.tokenize_queries(["mamba scan"])
        [document] = template.tokenize_documents(["state space models rank text passages"])
        whole = template.join(query, document, 100)
        for max_length in range(len(query) + 4, len(whole) + 3):
            joined = template.join(query, document, max_length)
            assert len(joined) == min(max_length, len(whole))
            windows = np.lib.stride_tricks.sliding_window_view(joined, len(query))
            assert (windows == query).all(axis=1).any()


def test_pieces_are_the_tokens_of_the_joint_text(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D")
    for text in ["state space", "ends with ;", "", "  spaces  ", "e\u0301tat", "a;b; c ;"]:
        [query], [document] = template.tokenize_queries(["rank; text"]), template.tokenize_documents([text])
        joint = tiny_tokenizer(f"document: {text}; query: rank; text;", add_special_tokens=False)["input_ids"]
        assert template.join(query, document, 1000).tolist() == [*joint, tiny_tokenizer.sep_token_id]


def test_a_query_without_room_for_a_document_is_named(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D")
    [query], [document] = template.tokenize_queries(["rank " * 30]), template.tokenize_documents(["state"])
    with pytest.raises(UserError, match=r"query q7: its 33 tokens leave no room .* max_length 16"):
        template.join(query, document, 16, "q7")
