"""`POST /v1/completions`: OpenAI's older completions, sync and streamed."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.deps import Broker
from api.openai_v1.schemas import ErrorAnswer
from api.openai_v1.vector_schemas import Completion
from api.posted import posted
from api.sse import AS_STORED
from api.submission import Submission, as_stored
from api.submit import submit
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.requests.checking import check
from shared.requests.vectors import MAX_INPUT_NODES, CompletionRequest
from shared.routing.choice import choose_plan

router: Final = APIRouter()

_COMPLETION_REQUEST: Final = TypeAdapter(CompletionRequest)
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model", "prompt"]},
                "example": {"model": "gpt-4o-mini", "prompt": "Once upon a time", "max_tokens": 64},
            }
        },
    }
}


@router.post(
    "/v1/completions",
    summary="Completion",
    response_model=Completion,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["OpenAI"],
)
async def completions(request: Request) -> Response:
    """Continues a prompt. Models made for chat are asked through chat, where one prompt is one text."""
    asked = await posted(request, max_nodes=MAX_INPUT_NODES)
    call = completion_call(asked.document, asked.body, request, asked.principal, asked.via)
    return await submit(call, request, asked.principal, asked.via)


def completion_call(
    document: dict[str, Any], body: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """See `chat_call`."""
    check(_COMPLETION_REQUEST, document)
    options = document.get("stream_options")
    plan = choose_plan(document, JobKind.COMPLETION, request.scope["headers"], principal, via)
    return Submission(
        kind=JobKind.COMPLETION,
        document=document,
        body=None if plan.rewritten else body,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=Surface.OPENAI,
        stream=document.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        render_body=as_stored,
        form=AS_STORED,
        detachable=True,
    )
