"""What requests and responses look like: Text Embeddings Inference's form, and that of Cohere and Jina.

Fields that are not listed are ignored, as those servers do, so that their clients work unchanged.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


class _Request(BaseModel):
    model_config = ConfigDict(strict=True)


class _Response(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


# ---------------------------------------------------------------- Text Embeddings Inference


class TeiRequest(_Request):
    """A query and the texts to rank for it."""

    query: str
    texts: list[str]
    raw_scores: bool = Field(False, description="whether scores are the model's own; otherwise 1/(1+exp(-score))")
    return_text: bool = Field(False, description="whether each result has its text")
    truncate: bool | None = Field(
        None, description="whether a text that is too long is cut (default); otherwise it is an error"
    )
    truncation_direction: Literal["Left", "left", "Right", "right"] = Field(
        "Right", description="the side on which a text loses tokens"
    )


class TeiRank(_Response):
    """A text's place in the request, from 0, and its score."""

    index: int
    score: float
    text: str | None = Field(None, description="only with return_text")


class TeiError(_Response):
    """Why there is no ranking."""

    error: str
    error_type: Literal[
        "Validation", "Empty", "Unauthorized", "NotFound", "MethodNotAllowed", "Timeout", "Overloaded", "Backend",
        "Unhealthy",
    ]  # fmt: skip


class Info(_Response):
    """The model and the limits, with the names of Text Embeddings Inference."""

    model_id: str
    model_sha: str | None = None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None = None
    max_client_batch_size: int
    max_payload_bytes: int
    auto_truncate: bool = True
    tokenization_workers: int = 1
    version: str
    device: str


# ---------------------------------------------------------------- Cohere and Jina


def _text_of(document: Any) -> Any:
    """The text of a document that is an object."""
    if not isinstance(document, dict):
        return document
    if not isinstance(document.get("text"), str):
        raise ValueError('has no "text"; give a text, or an object with one under this key')
    return document["text"]


_TEXT_OR_OBJECT = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    ]
}
Document = Annotated[str, BeforeValidator(_text_of), WithJsonSchema(_TEXT_OR_OBJECT)]


class CohereRequest(_Request):
    """A query and the documents to rank for it, in the form of Cohere's second version."""

    model: str | None = Field(None, description="the served model's name; another name is an error")
    query: str
    documents: list[Document]
    top_n: int | None = Field(None, ge=0, description="how many results there are (default or 0: all)")
    return_documents: bool | None = Field(None, description="whether each result has its document (default: no)")
    rank_fields: list[Literal["text"]] | None = Field(None, description="only text is ranked")
    use_activation: bool | None = Field(
        None, description="as vLLM: false: scores are the model's own; otherwise 1/(1+exp(-score))"
    )


class JinaRequest(CohereRequest):
    """A query and the documents to rank for it, in the form of Jina and of Cohere's first version."""

    return_documents: bool | None = Field(None, description="whether each result has its document (default: yes)")


class DocumentText(_Response):
    """A document."""

    text: str


class Result(_Response):
    """A document's place in the request, from 0, and its score.

    cached: whether the document had been read for an earlier query.
    """

    index: int
    relevance_score: float
    document: DocumentText | None = Field(None, description="only with return_documents")
    cached: bool


class Usage(_Response):
    """Tokens of all pairs, whether they were computed or not."""

    prompt_tokens: int
    total_tokens: int


class Ranking(_Response):
    """Results, best first. meta: Cohere's."""

    id: str
    model: str
    results: list[Result]
    usage: Usage
    meta: dict[str, Any]


class VllmError(_Response):
    """The error as vLLM sends it."""

    message: str
    type: str
    param: None = None
    code: int


class CohereError(_Response):
    """Why there is no ranking."""

    message: str
    error: VllmError
