"""`POST /v1/embeddings`: OpenAI's form."""

from __future__ import annotations

from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.checking import check
from api.openai_v1.schemas import ErrorAnswer
from api.openai_v1.vector_schemas import MAX_INPUT_NODES, EmbeddingList, EmbeddingOptions
from api.plan import choose_plan
from api.posted import posted
from api.sse import AS_STORED
from api.submit import Submission, submit
from shared.domain.job import JobKind, Surface
from shared.queue.frames import Result

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
    document, via = asked.document, asked.via
    check(_EMBEDDING_REQUEST, document)
    plan = choose_plan(document, JobKind.EMBEDDINGS, request, asked.principal, via)
    call = Submission(
        kind=JobKind.EMBEDDINGS,
        document=document,
        body=None if plan.rewritten else asked.body,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=Surface.OPENAI,
        stream=False,
        include_usage=True,
        render_body=_with_usage,
        form=AS_STORED,
    )
    return await submit(call, request, asked.principal, via)


def _with_usage(result: Result) -> bytes:
    """Callers count on `usage`: it is our estimate where the provider did not say."""
    body = result.body or b"{}"
    # Quotes inside a JSON string are escaped, so this finds a field.
    if b'"usage":{' in body:
        return body
    tokens = result.head.prompt_tokens
    return orjson.dumps({**orjson.loads(body), "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
