"""`POST /v2/rerank`: Cohere's form."""

from __future__ import annotations

from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, TypeAdapter
from starlette.responses import Response

from api.posted import posted
from api.rerank import rerank_call, texts_of
from api.submit import submit
from shared.domain.job import JobKind, Surface
from shared.queue.frames import Result
from shared.requests.checking import check
from shared.requests.vectors import RerankOptions
from shared.routing.choice import choose_plan

router: Final = APIRouter()

_RERANK_REQUEST: Final = TypeAdapter(RerankOptions)
_DOCUMENTS_PER_UNIT: Final = 100
"""Cohere bills by searches: one query over up to a hundred documents."""


class RankedIndex(BaseModel):
    index: int
    relevance_score: float


class ApiVersion(BaseModel):
    version: Literal["2"] = "2"


class BilledUnits(BaseModel):
    search_units: int


class Meta(BaseModel):
    api_version: ApiVersion
    billed_units: BilledUnits


class CohereRanking(BaseModel):
    id: str
    results: list[RankedIndex]
    meta: Meta


class CohereError(BaseModel):
    id: str
    message: str


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
    "/v2/rerank",
    summary="Rerank documents (Cohere's form)",
    response_model=CohereRanking,
    responses={s: {"model": CohereError} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["Rerank"],
)
async def rerank(request: Request) -> Response:
    """The documents that answer the query best, best first, by index.

    `max_tokens_per_doc` and `priority` are hints: providers that do not know them rank all the same.
    """
    asked = await posted(request)
    document, via = asked.document, asked.via
    check(_RERANK_REQUEST, document)
    texts = texts_of(document)

    def render(answer: dict[str, Any], _: Result) -> dict[str, Any]:
        units = -(-len(texts) // _DOCUMENTS_PER_UNIT)
        return {
            "id": answer["id"],
            "results": answer["results"],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": units}},
        }

    plan = choose_plan(document, JobKind.RERANK, request.scope["headers"], asked.principal, via)
    call = rerank_call(document, texts, plan, Surface.COHERE, render)
    return await submit(call, request, asked.principal, via)
