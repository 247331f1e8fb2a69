"""`POST /v1/embeddings`: OpenAI's form."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.deps import Broker
from api.openai_v1.schemas import ErrorAnswer
from api.openai_v1.vector_schemas import EmbeddingList
from api.posted import posted
from api.renderers import register_render
from api.sse import AS_STORED
from api.submission import Submission
from api.submit import submit
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.queue.answers import with_usage
from shared.requests.checking import check
from shared.requests.vectors import MAX_INPUT_NODES, EmbeddingOptions
from shared.routing.choice import choose_plan

router: Final = APIRouter()

_EMBEDDING_REQUEST: Final = TypeAdapter(EmbeddingOptions)
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model", "input"]},
                "example": {"model": "openai/text-embedding-3-small", "input": ["one text", "another"]},
            }
        },
    }
}


@router.post(
    "/v1/embeddings",
    summary="Embeddings",
    response_model=EmbeddingList,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["OpenAI"],
)
async def embeddings(request: Request) -> Response:
    """A vector for each input, as numbers or base64 whichever of them the provider speaks."""
    asked = await posted(request, max_nodes=MAX_INPUT_NODES)
    call = embedding_call(asked.document, asked.body, request, asked.principal, asked.via)
    return await submit(call, request, asked.principal, asked.via)


def embedding_call(
    document: dict[str, Any], body: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """See `chat_call`."""
    check(_EMBEDDING_REQUEST, document)
    plan = choose_plan(document, JobKind.EMBEDDINGS, request.scope["headers"], principal, via)
    return Submission(
        kind=JobKind.EMBEDDINGS,
        document=document,
        body=None if plan.rewritten else body,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=Surface.OPENAI,
        stream=False,
        include_usage=True,
        render_body=with_usage,
        form=AS_STORED,
        detachable=True,
    )


register_render(Surface.OPENAI, JobKind.EMBEDDINGS, lambda result, _: with_usage(result))
