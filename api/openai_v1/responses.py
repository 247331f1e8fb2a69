"""`/v1/responses`: OpenAI's newer form, sync and streamed, stored and continued."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import Broker, authenticate, broker_of
from api.idempotency import claim_job_id, key_of
from api.json_body import parse_object
from api.openai_v1 import responses_schemas as schemas
from api.openai_v1.responses_schemas import check_response_request
from api.openai_v1.responses_stored import StoredResponse, answer_of, find, go_on_from, input_items
from api.openai_v1.schemas import ErrorAnswer
from api.plan import choose_plan
from api.request_body import read_body
from api.responses import json_response
from api.resume import register_form, resume
from api.sse import NAMED
from api.submit import Submission, as_stored, submit
from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import BadRequest, Conflict, JobLost

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
    false; `previous_response_id` goes on from it, with whatever model. `truncation: "auto"` is
    understood and not done: an input that is too long is the provider's error, and the
    response says `disabled`. What only OpenAI's own service can do (its tools, conversations,
    background, encrypted reasoning) answers 400 and is named.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    limit = via.settings.api.max_body_bytes
    body = await read_body(request.receive, limit=limit)
    document = parse_object(body)
    check_response_request(document)
    sent = None
    if document.get("previous_response_id") is not None:
        sent = {name: value for name, value in document.items() if name != "timeout_seconds"}
        try:
            body = await go_on_from(document, principal, via, limit=limit)
        except (BadRequest, JobLost):
            # What it goes on from may be gone by now, and the answer to it still be there.
            if not await _is_answered(request, principal, via, stream=document.get("stream") is True):
                raise
    plan = choose_plan(document, JobKind.RESPONSES, request, principal, via)
    call = Submission(
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
    )
    return await submit(call, request, principal, via)


async def _is_answered(request: Request, principal: Principal, via: Broker, *, stream: bool) -> bool:
    """Whether there is a job for this request already, by its Idempotency-Key or Last-Event-ID."""
    if stream and "last-event-id" in request.headers:
        return True
    key = key_of(request.headers)
    if key is None:
        return False
    _, is_job = await claim_job_id(key, principal, Surface.RESPONSES, JobKind.RESPONSES, via.producer)
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
    job, result = found.stored.job, found.stored.result
    if not job.stream:
        raise BadRequest("This response was not streamed: it has no events to read.", param="stream")
    # Events of a job are counted from 1, those of a response from 0.
    ordinal = 0 if starting_after is None else starting_after + 1
    if result is not None and ordinal > result.last:
        raise BadRequest("This response has no such event.", param="starting_after")
    return await resume(f"{job.id}:{ordinal}", request, principal, via, surface=Surface.RESPONSES)


@router.delete(
    "/v1/responses/{response_id}",
    summary="Delete a response",
    response_model=schemas.DeletedResponse,
    responses={409: {"model": ErrorAnswer}, **_ERRORS},
    tags=["OpenAI"],
)
async def delete(request: Request, response_id: str) -> Response:
    """It cannot be read or continued any more. Responses that went on from it keep what it said."""
    found = await _found(request, response_id)
    job = found.stored.job
    # Missing by now: somebody else deleted it meanwhile, or this very call did and its reply was lost.
    if await broker_of(request).producer.forget(job.id, job.account) == "running":
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
    responses={400: {"model": ErrorAnswer}, **_ERRORS},
    tags=["OpenAI"],
)
async def cancel(request: Request, response_id: str) -> Response:
    """Only one in the background could be cancelled; any other ends when its caller leaves."""
    await _found(request, response_id)
    raise BadRequest("Only a response in the background can be cancelled.")


async def _found(request: Request, response_id: str) -> StoredResponse:
    via = broker_of(request)
    return await find(response_id, await authenticate(request, via, Permission.INFERENCE), via)
