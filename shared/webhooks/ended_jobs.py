"""The end of jobs with a row: written, and noted for those who want to hear of it, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories import jobs
from shared.db.repositories.jobs import EndedJob, Told
from shared.domain.job import JobKind, JobState
from shared.ids import JobId
from shared.providers.translation.responses_object import response_id_of
from shared.webhooks.events import Event, EventType, Noted, note_all

_OF_JOBS: Final[Mapping[JobState, EventType]] = {
    JobState.SUCCEEDED: EventType.JOB_SUCCEEDED,
    JobState.FAILED: EventType.JOB_FAILED,
    JobState.CANCELLED: EventType.JOB_CANCELLED,
    JobState.EXPIRED: EventType.JOB_EXPIRED,
}
_OF_RESPONSES: Final[Mapping[JobState, EventType]] = {
    JobState.SUCCEEDED: EventType.RESPONSE_COMPLETED,
    JobState.FAILED: EventType.RESPONSE_FAILED,
    JobState.CANCELLED: EventType.RESPONSE_CANCELLED,
    JobState.EXPIRED: EventType.RESPONSE_FAILED,
}


async def end_jobs(connection: AsyncConnection, ended: Sequence[EndedJob]) -> None:
    """Those that have ended already stay as they are, and are told of as they ended."""
    await jobs.end(connection, ended)
    told = await jobs.told_of(connection, [job.id for job in ended])
    await note_all(connection, list(_noted(told, {job.id: job for job in ended})))


def _noted(told: Iterable[Told], ended: Mapping[JobId, EndedJob]) -> Iterator[Noted]:
    """`told`: as their rows say; `ended`: with their answers, for what only these tell."""
    for job in told:
        data: dict[str, Any] = {"id": job.id, "status": job.state.value}
        if job.notes:
            data["metadata"] = job.notes
        yield Noted(
            job.account, Event(_OF_JOBS[job.state], job.id, job.finished_at, data), url=job.webhook_url
        )
        if job.kind is JobKind.RESPONSES:
            response = response_id_of(job.id)
            kind = _OF_RESPONSES[job.state]
            if kind is EventType.RESPONSE_COMPLETED and _is_incomplete(ended.get(job.id)):
                kind = EventType.RESPONSE_INCOMPLETE
            yield Noted(job.account, Event(kind, response, job.finished_at, {"id": response}))


def _is_incomplete(job: EndedJob | None) -> bool:
    if job is None:
        return False
    if job.body:
        status = orjson.loads(job.body).get("status")
    elif job.events:
        # Streamed: its last event holds the whole of it.
        status = (orjson.loads(job.events.rpartition(b"\n")[2]).get("response") or {}).get("status")
    else:
        status = None
    return bool(status == "incomplete")
