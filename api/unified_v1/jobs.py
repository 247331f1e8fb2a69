"""`GET /api/v1/jobs/{id}/events`: a stream read again, or on from where a connection broke."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import authenticate, broker_of
from api.resume import resume
from api.unified_v1.schemas import ErrorAnswer
from shared.errors import NotFound
from shared.ids import JOB_ID

router: Final = APIRouter()


@router.get(
    "/api/v1/jobs/{job_id}/events",
    summary="Resume a stream",
    responses={s: {"model": ErrorAnswer} for s in (401, 404, 422)},
    tags=["Jobs"],
)
async def events(
    request: Request, job_id: str, after: Annotated[int, Query(ge=0, le=999_999_999)] = 0
) -> Response:
    """The job's events in the form it was asked for, behind `Last-Event-ID` or `?after=`."""
    via = broker_of(request)
    principal = await authenticate(request, via)
    if not JOB_ID.match(job_id):
        raise NotFound("There is no such job.")
    event_id = request.headers.get("last-event-id") or f"{job_id}:{after}"
    if event_id.partition(":")[0] != job_id:
        raise NotFound("There is no such job.")
    return await resume(event_id, request, principal, via, surface=None)
