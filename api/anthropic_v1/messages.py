"""`POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's form, for every provider."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.anthropic_v1.schemas import ErrorAnswer, MessageAnswer, TokenCount
from api.deps import Broker, authenticate, broker_of
from api.request_body import read_body
from api.responses import json_response
from api.resume import register_form
from api.sse import NAMED
from api.submission import Submission, as_stored
from api.submit import submit
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.providers.dialects.anthropic import wanted_api
from shared.providers.profile import not_served
from shared.providers.tokens import prompt_tokens
from shared.requests.json_body import parse_object
from shared.requests.messages import check_messages, check_token_count
from shared.routing.choice import choose_plan
from shared.routing.router import Plan

router: Final = APIRouter()

FORM: Final = register_form(Surface.ANTHROPIC, NAMED)

_EXAMPLE: Final[dict[str, Any]] = {
    "model": "claude-haiku-4-5",
    "messages": [{"role": "user", "content": "Hello"}],
}


def _request_body(required: list[str], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/v1/messages",
    summary="Create a message",
    response_model=MessageAnswer,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 429, 502, 503, 504)},
    openapi_extra=_request_body(["model", "max_tokens", "messages"], {**_EXAMPLE, "max_tokens": 256}),
    tags=["Anthropic"],
)
async def messages(request: Request) -> Response:
    """Anthropic's messages for every provider: `model` is a bare name, `provider/model` or a route.

    Anthropic is asked as you ask, `anthropic-version` and `anthropic-beta` included; for other
    providers the request is translated, and what they have no word for is a 400 that names it.
    With `stream: true` the answer is Anthropic's named events.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    body = await read_body(request.receive, limit=via.settings.api.max_body_bytes)
    call = message_call(parse_object(body), body, request, principal, via)
    return await submit(call, request, principal, via)


def message_call(
    document: dict[str, Any], body: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """See `chat_call`."""
    check_messages(document)
    plan = choose_plan(document, JobKind.MESSAGES, request.scope["headers"], principal, via)
    return _call(JobKind.MESSAGES, document, body, plan, request, stream=document.get("stream") is True)


@router.post(
    "/v1/messages/count_tokens",
    summary="Count the tokens of a message",
    response_model=TokenCount,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 429, 502, 503, 504)},
    openapi_extra=_request_body(["model", "messages"], _EXAMPLE),
    tags=["Anthropic"],
)
async def count_tokens(request: Request) -> Response:
    """How many tokens a message would take. Counted by Anthropic for its own models, estimated for others."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    body = await read_body(request.receive, limit=via.settings.api.max_body_bytes)
    document = parse_object(body)
    check_token_count(document)
    plan = choose_plan(document, JobKind.COUNT_TOKENS, request.scope["headers"], principal, via)
    # Each tokenizer counts for itself: there is nothing to go on to.
    plan = replace(plan, targets=plan.targets[:1], fallback_on=frozenset())
    target = plan.targets[0]
    profile = via.registry.get(target.provider)
    if profile.serves(JobKind.COUNT_TOKENS):
        call = _call(JobKind.COUNT_TOKENS, document, body, plan, request)
        return await submit(call, request, principal, via)
    if not profile.serves(JobKind.MESSAGES):
        raise not_served(profile, JobKind.MESSAGES)
    request.scope["state"]["provider"] = target.provider
    tokens = prompt_tokens(JobKind.MESSAGES, document, target.model)
    return json_response(orjson.dumps({"input_tokens": tokens}), [])


def _call(
    kind: JobKind,
    document: dict[str, Any],
    body: bytes | None,
    plan: Plan,
    request: Request,
    *,
    stream: bool = False,
) -> Submission:
    changed = wanted_api.carry(request.headers, document)
    return Submission(
        kind=kind,
        document=document,
        body=None if changed or plan.rewritten else body,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        surface=Surface.ANTHROPIC,
        stream=stream,
        include_usage=True,
        render_body=as_stored,
        form=FORM,
        detachable=kind is JobKind.MESSAGES,
    )
