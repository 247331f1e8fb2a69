"""`POST /api/v1/embeddings`: vectors alone, whatever provider makes them."""

from __future__ import annotations

from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.deps import Broker
from api.named_target import take_plan
from api.posted import posted
from api.renderers import register_render
from api.sse import AS_STORED
from api.submission import Submission
from api.submit import submit
from api.unified_v1.schemas import ErrorAnswer
from api.unified_v1.vector_schemas import EmbeddingRequest, EmbeddingsAnswer
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.queue.frames import Result
from shared.requests.checking import check
from shared.requests.vectors import MAX_INPUT_NODES

router: Final = APIRouter()

_EMBEDDING_REQUEST: Final = TypeAdapter(EmbeddingRequest)
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model", "input"]},
                "example": {"provider": "openai", "model": "text-embedding-3-small", "input": "one text"},
            }
        },
    }
}


@router.post(
    "/api/v1/embeddings",
    summary="Embeddings of any provider",
    response_model=EmbeddingsAnswer,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["Unified"],
)
async def embeddings(request: Request) -> Response:
    """A list of vectors in the order of the inputs, also where there is only one."""
    asked = await posted(request, max_nodes=MAX_INPUT_NODES)
    call = unified_embedding_call(asked.document, asked.body, request, asked.principal, asked.via)
    return await submit(call, request, asked.principal, asked.via)


def unified_embedding_call(
    document: dict[str, Any], body: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """See `chat_call`."""
    check(_EMBEDDING_REQUEST, document)
    plan = take_plan(document, JobKind.EMBEDDINGS, request, principal, via)
    return Submission(
        kind=JobKind.EMBEDDINGS,
        document=document,
        body=None,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=Surface.UNIFIED,
        stream=False,
        include_usage=True,
        render_body=_vectors,
        form=AS_STORED,
        detachable=True,
    )


def _vectors(result: Result) -> bytes:
    answer: dict[str, Any] = orjson.loads(result.body or b"{}")
    return orjson.dumps(
        {
            "embeddings": [item["embedding"] for item in answer["data"]],
            "model": answer["model"],
            "usage": {"total_tokens": result.head.prompt_tokens + result.head.completion_tokens},
        }
    )


register_render(Surface.UNIFIED, JobKind.EMBEDDINGS, lambda result, _: _vectors(result))
