"""`/v1/batches`: OpenAI's form, for every provider."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request

from api import batches
from api.batch_input import check_input
from api.batches import WantedBatch
from api.deps import authenticate, broker_of, headers_of, request_id_of
from api.openai_v1.batch_schemas import (
    REQUEST_BODY,
    BatchList,
    BatchObject,
    check_batch_request,
    options_of,
)
from api.openai_v1.schemas import ErrorAnswer
from api.posted import posted
from api.webhook_urls import check_webhook_url
from shared.domain.batch import BatchForm
from shared.domain.roles import Permission
from shared.ids import BatchId

router: Final = APIRouter(prefix="/v1/batches", tags=["OpenAI"])

_FORMS: Final = (BatchForm.OPENAI,)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in statuses}


@router.post(
    "",
    summary="Create a batch",
    responses=_errors(400, 401, 403, 404, 413, 415, 422, 503),
    openapi_extra=REQUEST_BODY,
)
async def create(request: Request) -> BatchObject:
    """Every line of the input file is a request to `endpoint`, to whatever provider its model is of. A
    line that is no good fails by itself and is told in the error file, unless `validation` is `strict`:
    then nothing runs. `window` bounds how many requests wait in the queue or run at once.
    """
    asked = await posted(request)
    document, principal, via = asked.document, asked.principal, asked.via
    check_batch_request(document)
    webhook_url = document.get("webhook_url")
    if webhook_url is not None:
        check_webhook_url(webhook_url, via.settings)

    async def input_file(_: BatchId) -> str:
        return await check_input(document["input_file_id"], principal, via)

    batch = await batches.create(
        WantedBatch(
            form=BatchForm.OPENAI,
            endpoint=document["endpoint"],
            notes=document.get("metadata"),
            options=options_of(document),
            webhook_url=webhook_url,
        ),
        document,
        headers_of(request.scope),
        request_id_of(request.scope),
        principal,
        via,
        input_file=input_file,
    )
    return BatchObject.of(batch)


@router.get("", summary="List batches", responses=_errors(401, 403, 404, 422, 503))
async def list_all(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> BatchList:
    """The newest first, from behind the batch whose id is `after`."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    found, has_more = await batches.page(principal, via, _FORMS, after=after, limit=limit)
    data = [BatchObject.of(batch) for batch in found]
    return BatchList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=has_more,
    )


@router.get("/{batch_id}", summary="Retrieve a batch", responses=_errors(401, 403, 404, 503))
async def retrieve(request: Request, batch_id: str) -> BatchObject:
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return BatchObject.of(await batches.find(batch_id, principal, via, _FORMS))


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=_errors(401, 403, 404, 409, 503))
async def cancel(request: Request, batch_id: str) -> BatchObject:
    """What waits never calls a provider, calls that run are cut off. What was answered by then is kept."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return BatchObject.of(await batches.cancel(batch_id, principal, via, _FORMS))
