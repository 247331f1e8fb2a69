"""`GET /api/v1/jobs/{id}`: how a job stands; `/events`: its stream again, or on from where it broke."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from api.deps import Broker, authenticate, broker_of
from api.replies import failure_of
from api.resume import resume
from api.unified_v1.schemas import ErrorAnswer
from shared.domain.conditions import UNKNOWN
from shared.domain.job import JobKind, JobState, Lane
from shared.domain.roles import Permission
from shared.errors import NotFound
from shared.ids import JOB_ID, JobId
from shared.queue.job_status import JobStatus

router: Final = APIRouter()


class JobFailure(BaseModel):
    code: str | None
    message: str


class JobAnswer(BaseModel):
    """`provider` and `model`: where it is now, or was answered.

    `queue_position` counts those of its lane that go before it, itself included; null unless it waits
    for its turn. `estimated_wait_ms` is null where nothing is known of how fast jobs end.
    """

    id: str
    object: Literal["job"] = "job"
    kind: JobKind
    status: JobState
    lane: Lane
    provider: str
    model: str
    created_at: datetime
    deadline_at: datetime
    finished_at: datetime | None
    failed_attempts: int
    queue_position: int | None
    estimated_wait_ms: int | None
    error: JobFailure | None


@router.get(
    "/api/v1/jobs/{job_id}",
    summary="How a job stands",
    responses={s: {"model": ErrorAnswer} for s in (401, 404, 503)},
    tags=["Jobs"],
)
async def job(request: Request, job_id: str) -> JobAnswer:
    """As long as its result is kept. Its id is in the header `x-headrace-job-id` of its answer."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    found = None
    if JOB_ID.match(job_id):
        found = await via.job_statuses.of(JobId(job_id), principal.account)
    if found is None:
        raise NotFound("There is no such job.")
    return _answer(found, via)


def _answer(found: JobStatus, via: Broker) -> JobAnswer:
    target, result = found.job.target, found.result
    failed = result is not None and found.state is not JobState.SUCCEEDED
    error = failure_of(result, found.job) if failed and result is not None else None
    return JobAnswer(
        id=found.job.id,
        kind=found.job.kind,
        status=found.state,
        lane=found.job.lane,
        provider=(result and result.head.provider) or target.provider,
        model=(result and result.head.model) or target.model,
        created_at=_moment(found.created_at),
        deadline_at=_moment(found.deadline_at),
        finished_at=_moment(found.finished_at) if found.finished_at is not None else None,
        failed_attempts=found.attempts,
        queue_position=found.position,
        estimated_wait_ms=_wait_ms(found, via),
        error=None if error is None else JobFailure(code=error.code, message=error.message),
    )


def _wait_ms(found: JobStatus, via: Broker) -> int | None:
    condition = via.conditions.get(found.job.target.provider, UNKNOWN)
    if found.position is None or not condition.drained_per_second:
        return None
    # Of each shard so many go in the same time.
    before = found.position * via.settings.queue.shards + condition.ahead_of(found.job.lane)
    return int(1000 * before / condition.drained_per_second)


def _moment(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)


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
    principal = await authenticate(request, via, Permission.INFERENCE)
    if not JOB_ID.match(job_id):
        raise NotFound("There is no such job.")
    event_id = request.headers.get("last-event-id") or f"{job_id}:{after}"
    if event_id.partition(":")[0] != job_id:
        raise NotFound("There is no such job.")
    return await resume(event_id, request, principal, via, surface=None)
