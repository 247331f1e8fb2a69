"""`POST /v1/rerank`: Jina's form, as vLLM and LiteLLM serve it beside OpenAI's routes."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.checking import check
from api.openai_v1.schemas import ErrorAnswer
from api.openai_v1.vector_schemas import Ranking, RerankOptions
from api.plan import choose_plan
from api.posted import posted
from api.rerank import rerank_call, texts_of, tokens_of
from api.submit import submit
from shared.domain.job import JobKind, Surface
from shared.queue.frames import Result

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
    document, via = asked.document, asked.via
    check(_RERANK_REQUEST, document)
    texts = texts_of(document)
    with_texts = document.get("return_documents") is not False

    def render(answer: dict[str, Any], result: Result) -> dict[str, Any]:
        ranked = answer["results"]
        if with_texts:
            ranked = [{**item, "document": {"text": texts[item["index"]]}} for item in ranked]
        tokens = tokens_of(result)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"model": answer["model"], "usage": usage, "results": ranked}

    plan = choose_plan(document, JobKind.RERANK, request, asked.principal, via)
    call = rerank_call(document, texts, plan, Surface.OPENAI, render)
    return await submit(call, request, asked.principal, via)
