"""`POST /v1/rerank`: Jina's form, as vLLM and LiteLLM serve it beside OpenAI's routes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.deps import Broker
from api.openai_v1.schemas import ErrorAnswer
from api.openai_v1.vector_schemas import Ranking
from api.posted import posted
from api.renderers import register_render
from api.rerank import rerank_call, texts_of, tokens_of
from api.submission import Submission
from api.submit import submit
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.queue.frames import Result
from shared.requests.checking import check
from shared.requests.vectors import RerankOptions
from shared.routing.choice import choose_plan

router: Final = APIRouter()

_RERANK_REQUEST: Final = TypeAdapter(RerankOptions)
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model", "query", "documents"]},
                "example": {
                    "model": "vllm/BAAI/bge-reranker-v2-m3",
                    "query": "What is a queue?",
                    "documents": ["A line of people.", "A kind of fish."],
                    "top_n": 1,
                },
            }
        },
    }
}


@router.post(
    "/v1/rerank",
    summary="Rerank documents (Jina's form)",
    response_model=Ranking,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["Rerank"],
)
async def rerank(request: Request) -> Response:
    """The documents that answer the query best, best first; with their texts unless told not to."""
    asked = await posted(request)
    call = rerank_request_call(asked.document, None, request, asked.principal, asked.via)
    return await submit(call, request, asked.principal, asked.via)


def rerank_request_call(
    document: dict[str, Any], _: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """See `chat_call`."""
    check(_RERANK_REQUEST, document)
    texts = texts_of(document)
    with_texts = document.get("return_documents") is not False

    def render(answer: dict[str, Any], result: Result) -> dict[str, Any]:
        return _ranked(answer, result, texts if with_texts else None)

    plan = choose_plan(document, JobKind.RERANK, request.scope["headers"], principal, via)
    return replace(rerank_call(document, texts, plan, Surface.OPENAI, render), detachable=True)


def _ranked(answer: dict[str, Any], result: Result, texts: list[str] | None) -> dict[str, Any]:
    ranked = answer["results"]
    if texts is not None:
        ranked = [{**item, "document": {"text": texts[item["index"]]}} for item in ranked]
    tokens = tokens_of(result)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"model": answer["model"], "usage": usage, "results": ranked}


def _later(result: Result, request: dict[str, Any]) -> bytes:
    return orjson.dumps(_ranked(orjson.loads(result.body or b"{}"), result, request.get("documents")))


register_render(Surface.OPENAI, JobKind.RERANK, _later)
