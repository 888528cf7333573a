"""Why a request is refused: one line for its sender, and a status in each of the forms that the server speaks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Problem(Enum):
    """Kinds of refusals: status in Text Embeddings Inference's form, in Cohere's and Jina's, and TEI's `error_type`."""

    SYNTAX = (400, 400, "Validation")
    EMPTY = (400, 400, "Empty")
    VALUE = (422, 400, "Validation")
    UNAUTHORIZED = (401, 401, "Unauthorized")
    NOT_FOUND = (404, 404, "NotFound")
    METHOD = (405, 405, "MethodNotAllowed")
    SLOW = (408, 408, "Timeout")
    TOO_LARGE = (413, 413, "Validation")
    MEDIA_TYPE = (415, 415, "Validation")
    OVERLOADED = (429, 429, "Overloaded")
    BACKEND = (424, 500, "Backend")
    DEFECT = (500, 500, "Backend")
    UNHEALTHY = (503, 503, "Unhealthy")

    @property
    def kind(self) -> str:
        """TEI's `error_type`."""
        return self.value[2]


class Refusal(Exception):
    """A request that is not answered; the message is one line for its sender. headers: of the response."""

    def __init__(self, problem: Problem, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problem, self.headers = problem, dict(headers or {})


def speaks_cohere(path: str) -> bool:
    """Whether a path's answers have the form of Cohere and Jina, not that of Text Embeddings Inference."""
    return path.startswith(("/v1/", "/v2/"))


def response_of(problem: Problem, message: str, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal, in the form that the path speaks.

    Cohere's clients read `message`; `error` is what vLLM sends.
    """
    tei, cohere, kind = problem.value
    if not speaks_cohere(path):
        return tei, {"error": message, "error_type": kind}
    return cohere, {"message": message, "error": {"message": message, "type": kind, "param": None, "code": cohere}}
