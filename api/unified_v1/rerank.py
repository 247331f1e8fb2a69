"""`POST /api/v1/rerank`: documents with their scores, whatever provider ranks them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.deps import Broker
from api.named_target import take_plan
from api.posted import posted
from api.renderers import register_render
from api.rerank import rerank_call, texts_of
from api.submission import Submission
from api.submit import submit
from api.unified_v1.schemas import ErrorAnswer
from api.unified_v1.vector_schemas import RerankAnswer, RerankRequest
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.queue.frames import Result
from shared.requests.checking import check

router: Final = APIRouter()

_RERANK_REQUEST: Final = TypeAdapter(RerankRequest)
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model", "query", "documents"]},
                "example": {
                    "provider": "vllm",
                    "model": "BAAI/bge-reranker-v2-m3",
                    "query": "What is a queue?",
                    "documents": ["A line of people.", "A kind of fish."],
                    "top_n": 1,
                },
            }
        },
    }
}


@router.post(
    "/api/v1/rerank",
    summary="Rerank documents with any provider",
    response_model=RerankAnswer,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["Unified"],
)
async def rerank(request: Request) -> Response:
    """The documents that answer the query best, best first, each with its text."""
    asked = await posted(request)
    call = unified_rerank_call(asked.document, None, request, asked.principal, asked.via)
    return await submit(call, request, asked.principal, asked.via)


def unified_rerank_call(
    document: dict[str, Any], _: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """See `chat_call`."""
    check(_RERANK_REQUEST, document)
    texts = texts_of(document)

    def render(answer: dict[str, Any], _: Result) -> dict[str, Any]:
        return _ranked(answer, texts)

    plan = take_plan(document, JobKind.RERANK, request, principal, via)
    return replace(rerank_call(document, texts, plan, Surface.UNIFIED, render), detachable=True)


def _ranked(answer: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    return {"results": [{**item, "document": texts[item["index"]]} for item in answer["results"]]}


def _later(result: Result, request: dict[str, Any]) -> bytes:
    return orjson.dumps(_ranked(orjson.loads(result.body or b"{}"), request["documents"]))


register_render(Surface.UNIFIED, JobKind.RERANK, _later)
