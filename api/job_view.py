"""A job as the API shows it, whether a row keeps it or the queue alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import BaseModel

from api.deps import Broker
from shared.db.repositories.jobs import KeptJob
from shared.domain.conditions import UNKNOWN
from shared.domain.job import Job, JobKind, JobState, Lane
from shared.ids import JobId
from shared.queue.failures import failure_of
from shared.queue.frames import Result, ResultHead
from shared.queue.job_status import JobStatus

_PATH: Final = "/api/v1/jobs"


class JobFailure(BaseModel):
    code: str | None
    message: str


class JobUrls(BaseModel):
    self: str
    result: str
    events: str
    cancel: str


class JobAnswer(BaseModel):
    """`provider` and `model`: where it is now, or was answered.

    `queue_position` counts those of its lane that go before it, itself included; null unless it waits
    for its turn. `estimated_wait_ms` is null where nothing is known of how fast jobs end.
    `result_expires_at`: until when its result can be read; null where it has not ended, or is gone.
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
    result_expires_at: datetime | None = None
    failed_attempts: int
    queue_position: int | None
    estimated_wait_ms: int | None
    error: JobFailure | None
    metadata: dict[str, str] | None = None
    urls: JobUrls


def place_of_result(job_id: JobId) -> str:
    return f"{_PATH}/{job_id}/result"


def job_answer(kept: KeptJob, status: JobStatus | None, via: Broker) -> JobAnswer:
    """`status`: how it stands in the queue; None where it is not there, or nobody asked."""
    if kept.is_open:
        running = status is not None and status.state is JobState.RUNNING
        target = kept if status is None else status.job.target
        return JobAnswer(
            id=kept.id,
            kind=kept.kind,
            # What ended in the queue has ended once its row says so.
            status=JobState.RUNNING if running or (status and status.result) else JobState.QUEUED,
            lane=kept.lane,
            provider=target.provider,
            model=target.model,
            created_at=kept.created_at,
            deadline_at=kept.deadline_at,
            finished_at=None,
            failed_attempts=0 if status is None else status.attempts,
            queue_position=None if status is None else status.position,
            estimated_wait_ms=None if status is None else wait_ms(status, via),
            error=None,
            metadata=kept.notes,
            urls=_urls(kept.id),
        )
    head = ResultHead.from_wire(kept.result_head or b"{}")
    return JobAnswer(
        id=kept.id,
        kind=kept.kind,
        status=kept.state,
        lane=kept.lane,
        provider=head.provider or kept.provider,
        model=head.model or kept.model,
        created_at=kept.created_at,
        deadline_at=kept.deadline_at,
        finished_at=kept.finished_at,
        result_expires_at=kept.expires_at,
        failed_attempts=max(0, head.attempts - (kept.state is JobState.SUCCEEDED)),
        queue_position=None,
        estimated_wait_ms=None,
        error=_failure(kept.state, Result(head, None), Job.from_wire(kept.header, b"")),
        metadata=kept.notes,
        urls=_urls(kept.id),
    )


def queued_answer(found: JobStatus, via: Broker) -> JobAnswer:
    """Of a job without a row."""
    target, result = found.job.target, found.result
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
        estimated_wait_ms=wait_ms(found, via),
        error=None if result is None else _failure(found.state, result, found.job),
        urls=_urls(found.job.id),
    )


def wait_ms(found: JobStatus, via: Broker) -> int | None:
    condition = via.conditions.get(found.job.target.provider, UNKNOWN)
    if found.position is None or not condition.drained_per_second:
        return None
    # Of each shard so many go in the same time.
    before = found.position * via.settings.queue.shards + condition.ahead_of(found.job.lane)
    return int(1000 * before / condition.drained_per_second)


def _failure(state: JobState, result: Result, job: Job) -> JobFailure | None:
    if state is JobState.SUCCEEDED:
        return None
    error = failure_of(result, job)
    return JobFailure(code=error.code, message=error.message)


def _urls(job_id: JobId) -> JobUrls:
    own = f"{_PATH}/{job_id}"
    return JobUrls(self=own, result=f"{own}/result", events=f"{own}/events", cancel=f"{own}/cancel")


def _moment(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)
