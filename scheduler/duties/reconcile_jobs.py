"""Accepted jobs that Redis lost are queued again: it is never the only copy of them.

    rows that have not ended ──> what Redis says of them
                                   ├── waits or runs: nothing to do
                                   ├── ended, yet not kept: kept now
                                   └── not there: queued again, or expired where its time is over

Queueing what is there already changes nothing, so a job that only seemed lost is not run twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from loguru import logger
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.duties.keep_results import Keeper
from scheduler.rounds import OnRound, unheard
from shared import faultpoints
from shared.clock import Clock, SystemClock
from shared.db.engine import DATABASE_ERRORS
from shared.db.repositories import jobs
from shared.db.repositories.jobs import Unended
from shared.domain.job import Job, JobState, UnknownEnvelope
from shared.errors import BrokerError
from shared.ids import JobId
from shared.observability import metrics
from shared.queue.ended import EndedJobs, InRedis
from shared.queue.producer import KEY_SECONDS, Producer
from shared.settings import JobSettings

_PAGE: Final = 500
_LATE: Final = timedelta(seconds=30)
"""How long after its deadline a job that no worker takes is still left to one."""
_SHARE_OF_TIME: Final = 0.1


@dataclass(slots=True)
class Reconciled:
    looked_at: int = 0
    kept: int = 0
    queued: int = 0
    expired: int = 0


class Reconciler:
    def __init__(
        self,
        ended: EndedJobs,
        keeper: Keeper,
        producer: Producer,
        database: AsyncEngine,
        settings: JobSettings,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._ended = ended
        self._keeper = keeper
        self._producer = producer
        self._database = database
        self._settings = settings
        self._clock = clock or SystemClock()

    async def look(self) -> Reconciled:
        """At every row that has not ended and is not quite new. Raises what Redis and the database raise."""
        done = Reconciled()
        created_before = self._clock.now() - timedelta(seconds=self._settings.lost_after_seconds)
        after = ""
        while True:
            async with self._database.connect() as connection:
                page = await jobs.unended(connection, created_before=created_before, after=after, limit=_PAGE)
            if not page:
                return done
            await self._reconcile(page, done)
            done.looked_at += len(page)
            after = page[-1].id

    async def _reconcile(self, page: Sequence[Unended], done: Reconciled) -> None:
        found = await self._ended.look([row.id for row in page])
        ended = [job for job in found.values() if job.has_ended]
        await self._keeper.keep(ended)
        done.kept += len(ended)
        now = self._clock.now()
        late = [row.id for row in page if _is_late(row, found.get(row.id), now)]
        if late:
            await self._keeper.end_lost(late, JobState.EXPIRED, at=now)
            done.expired += len(late)
        for row in page:
            if row.id not in found and row.deadline_at > now:
                done.queued += await self._queue_again(row.id)

    async def _queue_again(self, job_id: JobId) -> int:
        async with self._database.connect() as connection:
            row = await jobs.open_job(connection, job_id)
        if row is None:
            return 0
        left_ms = int((row.deadline_at - self._clock.now()).total_seconds() * 1000)
        try:
            job = replace(Job.from_wire(row.header, row.body), budget_ms=max(1, left_ms))
            if job.trace is not None:
                job = replace(job, trace=job.trace.as_past())
            faultpoints.hit("S2")
            await self._producer.enqueue(
                job,
                reply_to="",
                keep=True,
                fingerprint=row.fingerprint,
                store=row.stores_body,
                claim=row.idempotency,
                claim_seconds=KEY_SECONDS,
                retain_seconds=None if row.idempotency is None else KEY_SECONDS,
                cost=row.cost,
            )
        except (BrokerError, UnknownEnvelope) as exc:
            # A queue that is full, or a row of a newer release: at the next look.
            logger.warning("lost job not queued", job_id=job_id, error=type(exc).__name__)
            return 0
        logger.info("lost job queued again", job_id=job_id, request_id=job.request_id)
        return 1


def _is_late(row: Unended, found: InRedis | None, now: datetime) -> bool:
    if found is None:
        return row.deadline_at <= now
    return found.state is JobState.QUEUED and row.deadline_at + _LATE <= now


async def reconcile_jobs(
    reconciler: Reconciler, *, every_seconds: float, on_round: OnRound = unheard
) -> None:
    """For ever; rarer where there is so much to look at that it would take more than its share of time."""
    while True:
        started = time.monotonic()
        try:
            done = await reconciler.look()
            on_round(True)
            metrics.count_reconciled(queued=done.queued, kept=done.kept, expired=done.expired)
            if done.queued or done.kept or done.expired:
                logger.info("jobs reconciled", kept=done.kept, queued=done.queued, expired=done.expired)
        except (RedisError, *DATABASE_ERRORS) as exc:
            on_round(False)
            logger.warning("jobs not reconciled", error=type(exc).__name__)
        took = time.monotonic() - started
        await asyncio.sleep(max(every_seconds, took / _SHARE_OF_TIME))
