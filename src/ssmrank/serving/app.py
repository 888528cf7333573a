"""The routes of the server."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ssmrank import __version__
from ssmrank.serving.bodies import Form, check_text
from ssmrank.serving.forms import (
    CohereError,
    CohereRequest,
    Info,
    JinaRequest,
    Ranking,
    TeiError,
    TeiRank,
    TeiRequest,
)
from ssmrank.serving.lengths import Truncation
from ssmrank.serving.metrics import Metrics
from ssmrank.serving.page_headers import page_headers
from ssmrank.serving.problems import Problem, Refusal, response_of
from ssmrank.serving.record import Record, RequestLog, record_of
from ssmrank.serving.reference import reference_page
from ssmrank.serving.service import Answer, Service
from ssmrank.serving.settings import ServerSettings

log = logging.getLogger(__name__)

_CLIENT_GONE = 499
"""The status that is recorded for a client that did not wait for its answer. Nobody receives it."""

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


def create_app(service: Service, request_log: RequestLog) -> FastAPI:
    """The application of a model. Its threads are started and stopped by whoever serves it."""
    app = FastAPI(
        title="ssmrank",
        version=__version__,
        description=f"Ranks texts for a query with {service.name}.",
        docs_url=None,  # FastAPI's own page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_tei(app, service)
    _add_cohere(app, service)
    _add_pages(app, service)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_middleware(_Recorded, metrics=service.metrics, request_log=request_log)
    return app


# ---------------------------------------------------------------- routes


def _add_tei(app: FastAPI, service: Service) -> None:
    @app.post(
        "/rerank",
        summary="Rank texts, in the form of Text Embeddings Inference",
        **_described(TeiRequest, list[TeiRank]),
    )
    async def rerank(request: Request) -> Response:
        asked = await _read(service, request, TeiRequest)
        if not asked.texts:
            raise Refusal(Problem.EMPTY, "`texts` cannot be empty")
        truncation = Truncation(asked.truncate is not False, asked.truncation_direction.lower() == "left", "texts")
        answer = await _ranked(service, request, asked.query, asked.texts, truncation)
        ranks = []
        for place in answer.order:
            score = answer.scores[place] if asked.raw_scores else sigmoid(answer.scores[place])
            ranks.append(
                {"index": place} | ({"text": asked.texts[place]} if asked.return_text else {}) | {"score": score}
            )
        return _json(ranks, headers=_times(request, answer))


def _add_cohere(app: FastAPI, service: Service) -> None:
    async def rank(request: Request, form: type[CohereRequest], returned: bool) -> Response:
        asked = await _read(service, request, form)
        if asked.model is not None and asked.model != service.name:
            raise Refusal(Problem.NOT_FOUND, f"model: this server has {service.name} alone; send this name or none")
        if not asked.documents:
            raise Refusal(Problem.EMPTY, "documents: is empty; send at least one")
        answer = await _ranked(service, request, asked.query, asked.documents, Truncation())
        if asked.return_documents is not None:
            returned = asked.return_documents
        results = []
        for place in answer.order[: asked.top_n or None]:
            score = answer.scores[place] if asked.use_activation is False else sigmoid(answer.scores[place])
            result: dict[str, Any] = {"index": place, "relevance_score": score}
            if returned:
                result["document"] = {"text": asked.documents[place]}
            results.append(result | {"cached": answer.cached[place]})
        ranking = {
            "id": record_of(request.scope).id,
            "model": service.name,
            "results": results,
            "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
            "meta": {
                "api_version": {"version": request.url.path[2]},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": answer.tokens},
            },
        }
        return _json(ranking, headers=_times(request, answer))

    @app.post(
        "/v1/rerank", summary="Rank documents, in the form of Jina and Cohere v1", **_described(JinaRequest, Ranking)
    )
    async def rerank_v1(request: Request) -> Response:
        return await rank(request, JinaRequest, True)

    @app.post("/v2/rerank", summary="Rank documents, in the form of Cohere v2", **_described(CohereRequest, Ranking))
    async def rerank_v2(request: Request) -> Response:
        return await rank(request, CohereRequest, False)


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether requests are taken", response_model=None, responses={503: {"model": TeiError}})
    async def health() -> Response:
        service.check_open()
        return Response(status_code=200)

    @app.get("/info", summary="The model and the limits", response_model=Info)
    async def info(request: Request) -> Response:
        _check_key(service.settings, request)
        return _json(_info(service).model_dump())

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.written(), media_type=Metrics.content_type)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        html = reference_page(app.openapi())
        return HTMLResponse(html, headers=page_headers(html))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        html = (files("ssmrank.serving") / "page.html").read_text(encoding="utf-8")
        return HTMLResponse(html, headers=page_headers(html))


def sigmoid(score: float) -> float:
    """1/(1+exp(-score)), which no score overflows."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else 1 - 1 / (1 + math.exp(max(score, -700.0)))


# ---------------------------------------------------------------- steps of a request


async def _read(service: Service, request: Request, form: type[Form]) -> Form:
    _check_key(service.settings, request)
    service.check_open()
    return await service.bodies.read(request, form)


def _check_key(settings: ServerSettings, request: Request) -> None:
    if settings.api_key is None:
        return
    given = request.headers.get("authorization", "")
    scheme, _, key = given.partition(" ")
    right = hmac.compare_digest(key.strip().encode(), settings.api_key.encode())
    if scheme.lower() != "bearer" or not right:
        message = "this server needs its API key in the header Authorization: Bearer KEY"
        raise Refusal(Problem.UNAUTHORIZED, message, {"WWW-Authenticate": "Bearer"})


async def _ranked(
    service: Service, request: Request, query: str, documents: list[str], truncation: Truncation
) -> Answer:
    record = record_of(request.scope)
    record.documents = len(documents)
    check_text("query", query)
    for place, text in enumerate(documents):
        check_text(f"{truncation.name}[{place}]", text)
    answer = await service.rank(query, documents, truncation, request.receive)
    record.cached, record.tokens = sum(answer.cached), answer.tokens
    record.queue_ms, record.compute_ms = round(1000 * answer.queued, 1), round(1000 * answer.computed, 1)
    return answer


def _times(request: Request, answer: Answer) -> dict[str, str]:
    """TEI's headers, in milliseconds, and how many documents were found in the cache."""
    return {
        "X-Total-Time": f"{1000 * record_of(request.scope).seconds:.1f}",
        "X-Queue-Time": f"{1000 * answer.queued:.1f}",
        "X-Inference-Time": f"{1000 * answer.computed:.1f}",
        "X-Compute-Tokens": str(answer.tokens),
        "X-Cached-Documents": str(sum(answer.cached)),
    }


def _info(service: Service) -> Info:
    settings, reranker = service.settings, service.reranker
    return Info(
        model_id=service.name,
        model_dtype={"fp32": "float32", "bf16": "bfloat16", "fp8": "float8"}[reranker.precision],
        served_model_name=service.name,
        model_type={"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        max_concurrent_requests=settings.max_requests,
        max_input_length=reranker.settings.max_length,
        max_batch_tokens=settings.batch_tokens,
        max_client_batch_size=settings.max_documents,
        max_payload_bytes=settings.max_bytes,
        version=__version__,
        device=str(reranker.device),
    )


# ---------------------------------------------------------------- responses


def _json(values: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return Response(body.encode(), status, headers, media_type="application/json")


def _described(form: type[BaseModel], answer: Any) -> dict[str, Any]:
    """What the OpenAPI page says of a route that reads its body itself."""
    cohere = issubclass(form, CohereRequest)
    statuses = sorted(
        {problem.value[1 if cohere else 0] for problem in Problem} - {404, 405} | ({404} if cohere else set())
    )
    return {
        "response_model": answer,
        "responses": {status: {"model": CohereError if cohere else TeiError} for status in statuses},
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": form.model_json_schema()}}}
        },
    }


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    record_of(request.scope).problem = refusal.problem.name.lower()
    status, body = response_of(refusal.problem, str(refusal), request.url.path)
    return _json(body, status, refusal.headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == Problem.METHOD.value[0]:
        allowed = (error.headers or {}).get("Allow", "POST")
        return await _refused(request, Refusal(Problem.METHOD, f"this path takes {allowed} alone", error.headers))
    return await _refused(request, Refusal(Problem.NOT_FOUND, "no such path; /docs lists them"))


class _Recorded:
    """Records each request under an id that its answer has, and answers with one line if a route fails."""

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics, request_log: RequestLog) -> None:
        self._app, self._metrics, self._log = app, metrics, request_log

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope.setdefault("state", {})["record"] = Record()
        started = False

        async def receiving() -> _Message:
            message = await receive()
            record.bytes += len(message.get("body", b""))
            return message

        async def sending(message: _Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                record.status, started = message["status"], True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", record.id.encode())]
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        except ClientDisconnect:
            record.status, record.problem = _CLIENT_GONE, "client_gone"
        except asyncio.CancelledError:  # the server ends
            record.problem = Problem.UNHEALTHY.name.lower()
            if not started:
                status, body = response_of(Problem.UNHEALTHY, "the server has stopped; try another", scope["path"])
                await _json(body, status)(scope, receive, sending)
        except Exception as error:
            log.error("a route failed", exc_info=error)
            record.problem = Problem.DEFECT.name.lower()
            if not started:
                status, body = response_of(Problem.DEFECT, "the server failed; its log says more", scope["path"])
                await _json(body, status)(scope, receive, sending)
        finally:
            route = scope.get("route")
            record.route = getattr(route, "path", "unknown")
            self._metrics.requests.labels(record.route, str(record.status)).inc()
            self._metrics.seconds.labels(record.route).observe(record.seconds)
            self._log.write(record.line(scope["method"] if scope["method"] in _METHODS else "unknown"))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
