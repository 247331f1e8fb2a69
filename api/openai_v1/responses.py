"""`/v1/responses`: OpenAI's newer form, sync and streamed, stored and continued."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import Broker, authenticate, broker_of
from api.idempotency import claim_job_id, digest_of, key_of
from api.kept import find as find_row
from api.openai_v1 import background
from api.openai_v1 import responses_schemas as schemas
from api.openai_v1.background import check_background
from api.openai_v1.responses_stored import StoredResponse, answer_of, find, go_on_from, input_items
from api.openai_v1.schemas import ErrorAnswer
from api.request_body import read_body
from api.responses import json_response
from api.resume import register_form
from api.sse import NAMED
from api.stopping import drop_result
from api.submission import Submission, as_stored
from api.submit import submit
from shared.domain.job import OWN_ROW, JobKind, Surface
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import BadRequest, Conflict, JobLost
from shared.requests.checking import fault
from shared.requests.json_body import parse_object
from shared.requests.responses import check_response_request
from shared.routing.choice import choose_plan

router: Final = APIRouter()
FORM: Final = register_form(Surface.RESPONSES, NAMED)

_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model", "input"]},
                "example": {"model": "gpt-4o-mini", "input": "Hello", "stream": False},
            }
        },
    }
}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {s: {"model": ErrorAnswer} for s in (401, 404, 422, 503)}


@router.post(
    "/v1/responses",
    summary="Create a response",
    response_model=schemas.Response,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=_REQUEST_BODY,
    tags=["OpenAI"],
)
async def create(request: Request) -> Response:
    """OpenAI's responses for every provider: `model` is a bare name, `provider/model` or a route.

    Parameters unknown here are passed on. A response is kept for a day unless `store` is
    false; `previous_response_id` goes on from it, with whatever model. `background: true` answers at
    once with a response that waits, and is done whatever becomes of the connection. `truncation:
    "auto"` is understood and not done: an input that is too long is the provider's error, and the
    response says `disabled`. What only OpenAI's own service can do (its tools, conversations,
    encrypted reasoning) answers 400 and is named.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    limit = via.settings.api.max_body_bytes
    body = await read_body(request.receive, limit=limit)
    document = parse_object(body)
    check_response_request(document)
    check_background(document)
    sent = None
    if document.get("previous_response_id") is not None:
        sent = {name: value for name, value in document.items() if name != "timeout_seconds"}
        try:
            body = await go_on_from(document, principal, via, limit=limit)
        except (BadRequest, JobLost):
            # What it goes on from may be gone by now, and the answer to it still be there.
            if not await _is_answered(request, principal, via, stream=document.get("stream") is True):
                raise
    call = response_call(document, body, request, principal, via, sent=sent)
    if document.get("background") is True and not (call.stream and "last-event-id" in request.headers):
        return await background.accept(call, request, principal, via)
    return await submit(call, request, principal, via)


def job_call(
    document: dict[str, Any], body: bytes | None, request: Request, principal: Principal, via: Broker
) -> Submission:
    """See `chat_call`. A job needs no connection: it is in the background, and `/v1/responses` has it too."""
    check_response_request(document)
    check_background(document)
    if document.get("store") is not False:
        document["background"] = True
    if document.get("previous_response_id") is not None:
        raise fault("previous_response_id", "is understood at /v1/responses alone")
    return response_call(document, body, request, principal, via)


def response_call(
    document: dict[str, Any],
    body: bytes | None,
    request: Request,
    principal: Principal,
    via: Broker,
    *,
    sent: dict[str, Any] | None = None,
) -> Submission:
    """Of a checked request that has all it goes on from; `sent`: as it came, where that is not the same."""
    plan = choose_plan(document, JobKind.RESPONSES, request.scope["headers"], principal, via)
    return Submission(
        kind=JobKind.RESPONSES,
        document=document,
        body=None if plan.rewritten else body,
        plan=plan.targets,
        fallback_on=plan.fallback_on,
        asked=plan.asked,
        sent=sent,
        surface=Surface.RESPONSES,
        stream=document.get("stream") is True,
        include_usage=True,
        render_body=as_stored,
        form=FORM,
        retain_seconds=(
            None if document.get("store") is False else via.settings.api.responses_retain_seconds
        ),
        detachable=True,
    )


async def _is_answered(request: Request, principal: Principal, via: Broker, *, stream: bool) -> bool:
    """Whether there is a job for this request already, by its Idempotency-Key or Last-Event-ID."""
    if stream and "last-event-id" in request.headers:
        return True
    key = key_of(request.headers)
    if key is None:
        return False
    digest = digest_of(key, principal, Surface.RESPONSES, JobKind.RESPONSES)
    _, is_job = await claim_job_id(digest, via.producer)
    return is_job


@router.get(
    "/v1/responses/{response_id}",
    summary="Read a response",
    response_model=schemas.Response,
    responses={400: {"model": ErrorAnswer}, **_ERRORS},
    tags=["OpenAI"],
)
async def retrieve(
    request: Request,
    response_id: str,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=0, le=999_999_998)] = None,
) -> Response:
    """As it was answered. `stream=true` replays one that was streamed, or goes on with it behind
    the event whose `sequence_number` is `starting_after`.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    found = await find(response_id, principal, via)
    if not stream:
        return json_response(await answer_of(found, via), [])
    if not found.job.stream:
        raise BadRequest("This response was not streamed: it has no events to read.", param="stream")
    # Events of a job are counted from 1, those of a response from 0.
    after = 0 if starting_after is None else starting_after + 1
    return await background.read_on(found, after, request, principal, via)


@router.delete(
    "/v1/responses/{response_id}",
    summary="Delete a response",
    response_model=schemas.DeletedResponse,
    responses={409: {"model": ErrorAnswer}, **_ERRORS},
    tags=["OpenAI"],
)
async def delete(request: Request, response_id: str) -> Response:
    """It cannot be read or continued any more. Responses that went on from it keep what it said."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    found = await find(response_id, principal, via)
    if found.result is None:
        raise Conflict("This response is still in progress.")
    if found.job.row == OWN_ROW:
        await drop_result(await find_row(found.job_id, principal.account, via), request, via)
    # Missing by now: somebody else deleted it meanwhile, or this very call did and its reply was lost.
    elif await via.producer.forget(found.job_id, principal.account) == "running":
        raise Conflict("This response is still in progress.")
    return json_response(orjson.dumps({"id": response_id, "object": "response", "deleted": True}), [])


@router.get(
    "/v1/responses/{response_id}/input_items",
    summary="Input of a response",
    response_model=schemas.ItemList,
    responses={400: {"model": ErrorAnswer}, **_ERRORS},
    tags=["OpenAI"],
)
async def list_input_items(
    request: Request,
    response_id: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> Response:
    """The items it was generated from, those of the responses it went on from included."""
    items = input_items(await _found(request, response_id))
    if order == "desc":
        items.reverse()
    if after is not None:
        at = next((at for at, item in enumerate(items) if item["id"] == after), None)
        if at is None:
            raise BadRequest("This response has no such item.", param="after")
        items = items[at + 1 :]
    page = items[:limit]
    listed = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }
    return json_response(orjson.dumps(listed), [])


@router.post(
    "/v1/responses/{response_id}/cancel",
    summary="Cancel a response",
    response_model=schemas.Response,
    responses={400: {"model": ErrorAnswer}, **_ERRORS},
    tags=["OpenAI"],
)
async def cancel(request: Request, response_id: str) -> Response:
    """One in the background: a provider that works on it is cut off, and what it took is charged. One that
    has ended stays as it is. Any other ends when its caller leaves.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    found = await find(response_id, principal, via)
    return json_response(await background.cancel(found, request, principal, via), [])


async def _found(request: Request, response_id: str) -> StoredResponse:
    via = broker_of(request)
    return await find(response_id, await authenticate(request, via, Permission.INFERENCE), via)
