"""`/v1/messages/batches`: Anthropic's form, for every provider."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api import batch_input, batches
from api.anthropic_v1.batch_schemas import (
    REQUEST_BODY,
    DeletedMessageBatch,
    MessageBatch,
    MessageBatchList,
    check_inline_request,
    check_message_batch,
)
from api.anthropic_v1.schemas import ErrorAnswer
from api.batch_input import InlineForm
from api.batches import WantedBatch
from api.deps import Broker, authenticate, broker_of, headers_of
from api.public_url import absolute
from api.webhook_urls import check_webhook_url
from shared.batches.lines import LineRequest
from shared.clock import SystemClock
from shared.db.repositories.batches import Batch
from shared.domain.batch import BatchForm
from shared.domain.roles import Permission
from shared.providers.dialects.anthropic import wanted_api
from shared.requests.checking import fault

router: Final = APIRouter(prefix="/v1/messages/batches", tags=["Anthropic"])
PATH: Final = router.prefix

_FORMS: Final = (BatchForm.ANTHROPIC,)
_ENDPOINT: Final = "/v1/messages"
_OF_THIS_API: Final = "message-batches-"
"""Betas that say nothing about a message."""


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in statuses}


@router.post(
    "",
    summary="Create a message batch",
    responses=_errors(400, 401, 403, 413, 415, 503),
    openapi_extra=REQUEST_BODY,
)
async def create(request: Request) -> MessageBatch:
    """Each request is one to `/v1/messages`, to whatever provider its model is of. One whose `params` are
    no good ends as `errored`, and the others run.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    received = await batch_input.receive(request, _form(request, via), principal, via)
    document = received.document
    options = {
        "requests": received.requests,
        "window": document.get("window"),
        "execution": document.get("execution"),
    }
    wanted = WantedBatch(
        form=BatchForm.ANTHROPIC,
        endpoint=_ENDPOINT,
        options={name: value for name, value in options.items() if value is not None},
        webhook_url=document.get("webhook_url"),
    )
    return _answer(await batch_input.create(wanted, received, request, principal, via), request)


@router.get("", summary="List message batches", responses=_errors(400, 401, 403, 404, 503))
async def list_all(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 20,
    before_id: Annotated[str | None, Query(max_length=64)] = None,
    after_id: Annotated[str | None, Query(max_length=64)] = None,
) -> MessageBatchList:
    """The newest first: those that are older than `after_id`, or the next that are newer than `before_id`."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    if before_id is not None and after_id is not None:
        raise fault("before_id", "goes not together with after_id")
    found, has_more = await batches.page(
        principal, via, _FORMS, after=after_id, before=before_id, limit=limit
    )
    data = [_answer(batch, request) for batch in found]
    return MessageBatchList(
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{message_batch_id}", summary="Retrieve a message batch", responses=_errors(401, 403, 404, 503))
async def retrieve(request: Request, message_batch_id: str) -> MessageBatch:
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return _answer(await batches.find(message_batch_id, principal, via, _FORMS), request)


@router.post(
    "/{message_batch_id}/cancel",
    summary="Cancel a message batch",
    responses=_errors(401, 403, 404, 409, 503),
)
async def cancel(request: Request, message_batch_id: str) -> MessageBatch:
    """What waits never calls a provider, calls that run are cut off. What was answered by then is kept."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return _answer(await batches.cancel(message_batch_id, principal, via, _FORMS), request)


@router.delete(
    "/{message_batch_id}",
    summary="Delete a message batch",
    responses=_errors(401, 403, 404, 409, 503),
)
async def delete(request: Request, message_batch_id: str) -> DeletedMessageBatch:
    """Of one that has ended: its requests and its results, for good."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    await batches.delete(message_batch_id, principal, via, _FORMS)
    return DeletedMessageBatch(id=message_batch_id)


@router.get(
    "/{message_batch_id}/results",
    summary="The results of a message batch",
    response_class=Response,
    responses={
        200: {"content": {"application/x-jsonl": {"schema": {"type": "string"}}}},
        **_errors(401, 403, 404, 409, 503),
    },
)
async def results(request: Request, message_batch_id: str) -> Response:
    """A line for each request, in the order they were sent: `{"custom_id", "result"}`."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return await batches.results(message_batch_id, principal, via, _FORMS)


def _form(request: Request, via: Broker) -> InlineForm:
    headers = headers_of(request.scope)
    betas = (word.strip() for word in headers.get("anthropic-beta", "").split(","))
    asked = headers | {"anthropic-beta": ",".join(b for b in betas if not b.startswith(_OF_THIS_API))}

    def check(document: dict[str, Any], count: int) -> None:
        check_message_batch(document, count)
        if (url := document.get("webhook_url")) is not None:
            check_webhook_url(url, via.settings)

    def request_of(said: dict[str, Any]) -> LineRequest:
        check_inline_request(said)
        params = said["params"]
        wanted_api.carry(asked, params)
        return LineRequest(said["custom_id"], _ENDPOINT, params)

    return InlineForm(check, request_of)


def _answer(batch: Batch, request: Request) -> MessageBatch:
    results_url = absolute(f"{PATH}/{batch.id}/results", request)
    return MessageBatch.of(batch, results_url=results_url, now=SystemClock().now())
