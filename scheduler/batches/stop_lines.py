"""Lines that are not to run any more: of a batch that was cancelled, expired, or lost its key."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import batch_lines
from shared.db.repositories.batch_lines import LineEnd
from shared.db.repositories.batches import Batch
from shared.domain.batch import LineState, job_id_of
from shared.queue.job_status import JobStatuses
from shared.queue.producer import Producer

_PAGE: Final = 500


class Stopper:
    def __init__(
        self, database: AsyncEngine, producer: Producer, statuses: JobStatuses, clock: Clock
    ) -> None:
        self._database = database
        self._producer = producer
        self._statuses = statuses
        self._clock = clock

    async def stop(
        self,
        batch: Batch,
        to: LineState,
        *,
        since: datetime,
        within_seconds: float,
        result: bytes | None = None,
    ) -> bool:
        """Whether all have ended. What waits ends as `to`, with that result; calls that run are cut off, and
        how they ended is kept by the keeper, or they end as `to` when `within_seconds` are over.
        """
        await self._end_all(batch, LineState.PENDING, to, result)
        if self._clock.now() > since + timedelta(seconds=within_seconds):
            await self._end_all(batch, LineState.QUEUED, to, result)
            return True
        after, left = 0, 0
        while True:
            async with self._database.connect() as connection:
                places = await batch_lines.queued(connection, batch.id, after=after, limit=_PAGE)
            if not places:
                return not left
            after = places[-1].ordinal
            known = await asyncio.gather(*(self._cancel(batch, place.ordinal) for place in places))
            # What Redis never had, or lost, nobody else would end.
            lost = [place.ordinal for place, is_there in zip(places, known, strict=True) if not is_there]
            async with writing(self._database) as connection:
                now = self._clock.now()
                await batch_lines.end(
                    connection, [LineEnd(batch.id, n, to, None, result, at=now) for n in lost]
                )
            left += len(places) - len(lost)

    async def _cancel(self, batch: Batch, ordinal: int) -> bool:
        """Whether Redis has it."""
        status = await self._statuses.of(job_id_of(batch.id, ordinal), batch.account_id)
        if status is None:
            return False
        return await self._producer.cancel(status.job) != "missing"

    async def _end_all(self, batch: Batch, of: LineState, to: LineState, result: bytes | None) -> None:
        done = _PAGE
        while done == _PAGE:
            async with writing(self._database) as connection:
                done = await batch_lines.end_some(
                    connection, batch.id, of, to, at=self._clock.now(), result=result, limit=_PAGE
                )

    async def tell_as_expired(self, batch: Batch) -> None:
        """Of a batch that nobody cancelled: those that were cut off as its time was over."""
        await self._end_all(batch, LineState.CANCELLED, LineState.EXPIRED, None)
