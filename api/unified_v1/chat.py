"""`POST /api/v1/chat`: one form for every provider, the provider named in the request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.conversation import take_turn
from api.deps import Broker, authenticate, broker_of
from api.named_target import take_plan
from api.renderers import register_render
from api.request_body import read_body
from api.resume import register_form
from api.sse import AS_STORED, StreamForm
from api.submission import Submission
from api.submit import submit
from api.unified_v1.schemas import ChatAnswer, ErrorAnswer, check_chat
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.queue.frames import Result
from shared.requests.checking import fault, refuse_several_answers
from shared.requests.json_body import parse_object

router: Final = APIRouter()

_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["provider", "model", "messages"]},
                "example": {
                    "provider": "openai",
                    "model": "gpt-4o-mini",
                    "messages": [{"role": "user", "content": "Hello"}],
                    "temperature": 0.7,
                    "max_tokens": 256,
                    "stream": False,
                },
            }
        },
    }
}


@router.post(
    "/api/v1/chat",
    summary="Chat with any provider",
    response_model=ChatAnswer,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["Unified"],
)
async def chat(request: Request) -> Response:
    """The same request and answer for every provider; a provider's own options are passed on.

    A stream holds one answer: `n` above 1 is refused there. With `conversation_id`, `new` or the id of
    one, what was said before goes in front of the messages, and this turn is kept with it.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    body = await read_body(request.receive, limit=via.settings.api.max_body_bytes)
    document = parse_object(body)
    check_chat(document)
    sent = dict(document) if "conversation_id" in document else None
    turn = await take_turn(document, request, principal, via)
    call = unified_chat_call(document, None, request, principal, via, sent=sent)
    # What is kept of a conversation is kept while its caller listens.
    response = await submit(replace(call, detachable=turn is None), request, principal, via)
    return response if turn is None else await turn.answered(response)


def job_chat_call(
    document: dict[str, Any], body: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """See `chat_call`."""
    check_chat(document)
    if document.get("conversation_id") is not None:
        raise fault("conversation_id", "is for requests whose caller waits for the answer")
    return unified_chat_call(document, body, request, principal, via)


def unified_chat_call(
    document: dict[str, Any],
    _: bytes | None,
    request: Request,
    principal: Principal,
    via: Broker,
    *,
    sent: dict[str, Any] | None = None,
) -> Submission:
    """Of a checked request without `conversation_id`; `sent`: as it came, where that had one."""
    plan = take_plan(document, JobKind.CHAT, request, principal, via)
    stream = document.get("stream") is True
    if stream:
        refuse_several_answers(document)
    return Submission(
        kind=JobKind.CHAT,
        document=document,
        body=None,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=Surface.UNIFIED,
        stream=stream,
        include_usage=True,
        render_body=_unified_answer,
        form=FORM,
        sent=sent,
        detachable=True,
    )


def _unified_answer(result: Result) -> bytes:
    answer: dict[str, Any] = orjson.loads(result.body or b"{}")
    return orjson.dumps(
        {
            "id": answer.get("id"),
            "provider": result.head.provider,
            "model": answer.get("model") or result.head.model,
            "choices": [
                {"message": choice.get("message"), "finish_reason": choice.get("finish_reason")}
                for choice in answer.get("choices", ())
            ],
            "usage": {
                "prompt_tokens": result.head.prompt_tokens,
                "completion_tokens": result.head.completion_tokens,
                "total_tokens": result.head.prompt_tokens + result.head.completion_tokens,
            },
        }
    )


def render_event(event: bytes) -> bytes:
    """A canonical chunk as `{"delta": {...}}`, with `finish_reason` and `usage` when they are said."""
    chunk: dict[str, Any] = orjson.loads(event)
    choices = chunk.get("choices") or [{}]
    delta = {
        k: v for k, v in (choices[0].get("delta") or {}).items() if k != "role" and v is not None and v != ""
    }
    rendered: dict[str, Any] = {"delta": delta}
    if finish_reason := choices[0].get("finish_reason"):
        rendered["finish_reason"] = finish_reason
    if usage := chunk.get("usage"):
        rendered["usage"] = {
            name: usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        }
    return orjson.dumps(rendered) if delta or len(rendered) > 1 else b""


FORM: Final = register_form(Surface.UNIFIED, StreamForm(render_event))
register_form(Surface.OPENAI, AS_STORED)
register_render(Surface.UNIFIED, JobKind.CHAT, lambda result, _: _unified_answer(result))
