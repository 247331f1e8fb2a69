"""An accepted job ends at its owner's wish, wherever it is: in the queue, on a worker, or lost."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from api.database import within_reach
from api.deps import Broker
from api.kept import ended
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import jobs
from shared.db.repositories.jobs import EndedJob, KeptJob
from shared.domain.job import JobState
from shared.domain.usage import Outcome
from shared.errors import Conflict
from shared.queue.frames import ResultHead
from shared.webhooks.ended_jobs import end_jobs

_END_SECONDS: Final = 5.0
"""A provider's call is cut off within one."""


async def stop(kept: KeptJob, via: Broker) -> None:
    """Changes nothing of one that has ended. Raises QueueUnavailable, Overloaded."""
    if not kept.is_open:
        return
    status = await via.job_statuses.of(kept.id, kept.account)
    if status is None:
        await _end_unqueued(kept, via)
    else:
        await via.producer.cancel(status.job)


async def drop_result(kept: KeptJob, request: Request, via: Broker) -> None:
    """Stops it if need be; its request and its answer are gone then. Raises Conflict where it does not end.

    Not before its row says that it ended: what is missing from Redis until then is queued again.
    """
    await stop(kept, via)
    kept = await ended(kept.id, kept.account, via, within_seconds=_END_SECONDS, request=request)
    if kept.is_open:
        raise Conflict("This job has not ended yet.")
    async with within_reach("Jobs"), writing(via.engine) as connection:
        await jobs.drop_result(connection, kept.account, kept.id)
    await via.producer.forget(kept.id, kept.account)


async def _end_unqueued(kept: KeptJob, via: Broker) -> None:
    """Redis lost it, or never had it: nobody else would end it before it was queued again."""
    async with within_reach("Jobs"), writing(via.engine) as connection:
        head = ResultHead(Outcome.CANCELLED, status=409).to_wire()
        at = SystemClock().now()
        await end_jobs(connection, [EndedJob(kept.id, JobState.CANCELLED, head, None, None, at)])
