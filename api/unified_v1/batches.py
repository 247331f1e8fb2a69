"""`/api/v1/batches`: batches of every form, and a form of its own in which each request names its route."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi import Response as Answer
from starlette.responses import Response

from api import batch_input, batches
from api.batch_input import InlineForm, check_input
from api.batches import WantedBatch
from api.deps import Broker, authenticate, broker_of, headers_of, request_id_of
from api.openai_v1.batch_schemas import options_of
from api.pages import cursor_of, place_of
from api.unified_v1 import batch_schemas
from api.unified_v1.batch_schemas import (
    REQUEST_BODY,
    DeletedBatch,
    UnifiedBatch,
    UnifiedBatchList,
    check_inline_request,
    check_unified_batch,
)
from api.unified_v1.schemas import ErrorAnswer
from api.webhook_urls import check_webhook_url
from shared.batches.lines import LineRequest
from shared.domain.batch import BatchForm
from shared.domain.roles import Permission
from shared.ids import BatchId

router: Final = APIRouter(prefix=batch_schemas.PATH, tags=["Batches"])
PATH: Final = router.prefix

_FORMS: Final = tuple(BatchForm)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in statuses}


@router.post(
    "",
    summary="Create a batch",
    status_code=202,
    responses=_errors(400, 401, 403, 404, 413, 415, 422, 503),
    openapi_extra=REQUEST_BODY,
)
async def create(request: Request, answer: Answer) -> UnifiedBatch:
    """Requests to any of the routes, in the body or as the lines of a file. One that is no good fails by
    itself and is told in the results, unless `validation` is `strict`: then nothing runs.

    Repeat a creation whose answer was lost under the same `Idempotency-Key`: it is one batch.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    received = await batch_input.receive(request, _form(via), principal, via)
    document = received.document
    options = options_of(document)
    if received.key is not None:
        options["requests"] = received.requests
    wanted = WantedBatch(
        form=BatchForm.UNIFIED,
        endpoint=document.get("endpoint") or "",
        notes=document.get("metadata"),
        options=options,
        webhook_url=document.get("webhook_url"),
    )
    if received.key is not None:
        batch = await batch_input.create(wanted, received, request, principal, via)
    else:

        async def input_file(_: BatchId) -> str:
            return await check_input(document["input_file_id"], principal, via)

        headers, request_id = headers_of(request.scope), request_id_of(request.scope)
        batch = await batches.create(
            wanted, document, headers, request_id, principal, via, input_file=input_file
        )
    answer.headers["location"] = f"{PATH}/{batch.id}"
    return UnifiedBatch.of(batch)


@router.get("", summary="List batches", responses=_errors(401, 403, 422, 503))
async def list_all(
    request: Request,
    form: Annotated[list[BatchForm] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> UnifiedBatchList:
    """Those of the account, whichever API they came by, newest first."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    shown, has_more = await batches.page_beside(
        principal, via, form or _FORMS, after=place_of(cursor), limit=limit
    )
    return UnifiedBatchList(
        data=[UnifiedBatch.of(batch) for batch in shown],
        next_cursor=cursor_of(shown[-1].created_at, shown[-1].id) if has_more else None,
    )


@router.get("/{batch_id}", summary="How a batch stands", responses=_errors(401, 403, 404, 503))
async def show(request: Request, batch_id: str) -> UnifiedBatch:
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return UnifiedBatch.of(await batches.find(batch_id, principal, via, _FORMS))


@router.get(
    "/{batch_id}/results",
    summary="The results of a batch",
    response_class=Response,
    responses={
        200: {"content": {"application/x-jsonl": {"schema": {"type": "string"}}}},
        **_errors(401, 403, 404, 409, 503),
    },
)
async def results(request: Request, batch_id: str) -> Response:
    """A line for each request of one that has ended: first those that were answered, then the others.
    `{"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}`, one of the last two
    null; of a batch that came by Anthropic's API, its lines.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return await batches.results(batch_id, principal, via, _FORMS)


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=_errors(401, 403, 404, 409, 503))
async def cancel(request: Request, batch_id: str) -> UnifiedBatch:
    """What waits never calls a provider, calls that run are cut off. What was answered by then is kept."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return UnifiedBatch.of(await batches.cancel(batch_id, principal, via, _FORMS))


@router.delete("/{batch_id}", summary="Delete a batch", responses=_errors(401, 403, 404, 409, 503))
async def delete(request: Request, batch_id: str) -> DeletedBatch:
    """Of one that has ended: its results, and its requests where they were in the body, for good."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    await batches.delete(batch_id, principal, via, _FORMS)
    return DeletedBatch(id=batch_id)


def _form(via: Broker) -> InlineForm:
    def check(document: dict[str, Any], count: int) -> None:
        check_unified_batch(document, count)
        if (url := document.get("webhook_url")) is not None:
            check_webhook_url(url, via.settings)

    def request_of(said: dict[str, Any]) -> LineRequest:
        check_inline_request(said)
        return LineRequest(said["custom_id"], said["url"], said["body"])

    return InlineForm(check, request_of)
