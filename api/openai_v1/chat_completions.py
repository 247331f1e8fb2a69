"""HOT PATH. `POST /v1/chat/completions`: OpenAI's form, sync and streamed."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.deps import Broker, authenticate, broker_of
from api.openai_v1.schemas import ChatCompletion, ErrorAnswer
from api.request_body import read_body
from api.sse import AS_STORED
from api.submission import Submission, as_stored
from api.submit import submit
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.requests.chat import check_chat_completion
from shared.requests.json_body import parse_object
from shared.routing.choice import choose_plan

router: Final = APIRouter()

_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model", "messages"]},
                "example": {
                    "model": "gpt-4o-mini",
                    "messages": [{"role": "user", "content": "Hello"}],
                    "stream": False,
                },
            }
        },
    }
}


@router.post(
    "/v1/chat/completions",
    summary="Chat completion",
    response_model=ChatCompletion,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["OpenAI"],
)
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions for every provider: `model` is a bare name, `provider/model` or a route.

    Parameters unknown here are passed on. With `stream: true` the answer is server-sent
    events; `x-stream-ids: true` adds ids, and repeating the request with `Last-Event-ID`
    goes on with that stream.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    body = await read_body(request.receive, limit=via.settings.api.max_body_bytes)
    return await submit(chat_call(parse_object(body), body, request, principal, via), request, principal, via)


def chat_call(
    document: dict[str, Any], body: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """`body`: the bytes that say the same as `document`, if any do. Raises what is wrong with it."""
    check_chat_completion(document)
    options = document.get("stream_options")
    plan = choose_plan(document, JobKind.CHAT, request.scope["headers"], principal, via)
    return Submission(
        kind=JobKind.CHAT,
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
