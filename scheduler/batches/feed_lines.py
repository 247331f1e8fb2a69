"""Lines become jobs, a window of each batch at a time; the limits of its key are asked for each.

    pending ── claimed, committed ──> queued ── admitted, enqueued ──> a job
       ^                                │ │
       └── a limit, no room: later ─────┘ └── dying in between: queued again once it is missed

The id of the job is that of the line, so that a line is one job however often it is queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches.input_file import input_of, lines_at
from scheduler.batches.line_jobs import job_of_line
from scheduler.batches.means import Means
from scheduler.batches.room import Room
from scheduler.duties.keep_results import Keeper
from shared import faultpoints
from shared.batches.faults import Fault
from shared.batches.lines import refused
from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import batch_lines, batches
from shared.db.repositories.batch_lines import LineEnd, Place
from shared.db.repositories.batches import Batch
from shared.domain.batch import LineState, job_id_of, read_row
from shared.domain.job import Job
from shared.domain.principal import Principal
from shared.errors import BrokerError, Overloaded, QuotaExceeded, RateLimited
from shared.limits.admission import FREE, Admission
from shared.observability import tracing
from shared.observability.tracing import Attributes
from shared.queue.ended import EndedJobs
from shared.queue.producer import Producer
from shared.requests.turn import cost_of
from shared.settings import Settings
from shared.storage.objects import NoSuchObject, Storage

_AT_ONCE: Final = 32
_AT_ONCE_BYTES: Final = 4 * 1024 * 1024
_PAGE: Final = 500
_NO_ROOM_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Fed:
    """`later`: lines that nothing is wrong with and that are no jobs yet. `wait_seconds`: until when."""

    queued: list[int] = field(default_factory=list)
    later: list[int] = field(default_factory=list)
    failed: list[LineEnd] = field(default_factory=list)
    wait_seconds: float = 0.0


class Feeder:
    def __init__(
        self,
        storage: Storage,
        database: AsyncEngine,
        producer: Producer,
        admission: Admission,
        means: Means,
        room: Room,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._database = database
        self._producer = producer
        self._admission = admission
        self._means = means
        self._room = room
        self._settings = settings
        self._clock = clock

    async def feed(self, batch: Batch, principal: Principal) -> float | None:
        """Up to its window. None where it had lines and room for them, else in how many seconds to look
        again. Raises what Redis, the database and the storage raise.
        """
        async with self._database.connect() as connection:
            queued = await batch_lines.count_in(connection, batch.id, LineState.QUEUED)
            room = (batch.window or self._settings.batches.window) - queued
            if room <= 0:
                return self._settings.batches.look_seconds
            places = await batch_lines.pending(connection, batch.id, after=batch.fed_lines, limit=room)
        if not places:
            return self._settings.batches.look_seconds
        async with writing(self._database) as connection:
            ours = await batch_lines.claim(
                connection, batch.id, [place.ordinal for place in places], at=self._clock.now()
            )
            if ours:
                await batches.fed(connection, batch, upto=places[-1].ordinal)
        places = [place for place in places if place.ordinal in ours]
        told: Attributes = {"headrace.batch.id": batch.id, "headrace.batch.lines": len(places)}
        with tracing.spanned("queue batch lines", origin=batch.trace, attributes=told):
            fed = await self._queue_all(batch, principal, places)
        async with writing(self._database) as connection:
            await batch_lines.end(connection, fed.failed)
            if fed.later:
                await batch_lines.put_back(connection, batch.id, fed.later)
                await batches.feed_again(connection, batch.id, behind=min(fed.later) - 1)
        return min(fed.wait_seconds, _LONGEST_WAIT_SECONDS) if fed.later else None

    async def feed_lost(self, batch: Batch, principal: Principal, ended: EndedJobs, keeper: Keeper) -> int:
        """Lines that were queued a while ago and that Redis does not have: again, under their ids. Those
        that ended without anybody keeping it are kept. How many were queued again.
        """
        before = self._clock.now() - timedelta(seconds=self._settings.jobs.lost_after_seconds)
        after = again = 0
        while True:
            async with self._database.connect() as connection:
                places = await batch_lines.queued(
                    connection, batch.id, before=before, after=after, limit=_PAGE
                )
            if not places:
                return again
            after = places[-1].ordinal
            ids = [job_id_of(batch.id, place.ordinal) for place in places]
            found = await ended.look(ids)
            await keeper.keep([job for job in found.values() if job.has_ended])
            lost = [place for place, job_id in zip(places, ids, strict=True) if job_id not in found]
            if not lost:
                continue
            fed = await self._queue_all(batch, principal, lost)
            async with writing(self._database) as connection:
                await batch_lines.end(connection, fed.failed)
                await batch_lines.queued_again(connection, batch.id, fed.queued, at=self._clock.now())
            again += len(fed.queued)

    async def _queue_all(self, batch: Batch, principal: Principal, places: Sequence[Place]) -> _Fed:
        fed = _Fed()
        file = await input_of(self._database, batch, self._clock)
        if file is None:
            fed.failed += [self._gone(batch, place) for place in places]
            return fed
        left_ms = max(1, int((batch.expires_at - self._clock.now()).total_seconds() * 1000))
        rules = self._admission.rules_of(principal, older_route=False)
        waiting: list[tuple[Place, Job, dict[str, Any]]] = []
        size = 0
        remaining = [place.ordinal for place in places]
        reading = lines_at(self._storage, file.storage_key, places, longest=self._settings.api.max_body_bytes)
        try:
            async with aclosing(reading) as lines:
                async for place, text in lines:
                    remaining.pop(0)
                    made = job_of_line(
                        batch,
                        principal,
                        self._means,
                        place,
                        text,
                        budget_ms=left_ms,
                        admission=self._admission,
                        rules=rules,
                    )
                    if isinstance(made, Fault):
                        fed.failed.append(self._failed(batch, place, made))
                        continue
                    if isinstance(made, float):
                        fed.later.append(place.ordinal)
                        fed.wait_seconds = made
                    else:
                        waiting.append((place, *made))
                        size += place.length
                    if len(waiting) == _AT_ONCE or size >= _AT_ONCE_BYTES:
                        await self._queue_some(batch, principal, waiting, fed)
                        waiting, size = [], 0
                        faultpoints.hit("S4")
                    if fed.later:
                        break
        except NoSuchObject:
            fed.failed += [self._gone(batch, place) for place in places if place.ordinal in set(remaining)]
            remaining = []
        await self._queue_some(batch, principal, waiting, fed)
        fed.later += remaining
        return fed

    async def _queue_some(
        self,
        batch: Batch,
        principal: Principal,
        some: Sequence[tuple[Place, Job, dict[str, Any]]],
        fed: _Fed,
    ) -> None:
        outcomes = await asyncio.gather(
            *(self._queue(job, document, principal) for _, job, document in some), return_exceptions=True
        )
        for (place, _, _), outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome is None:
                fed.queued.append(place.ordinal)
            elif isinstance(outcome, float):
                fed.later.append(place.ordinal)
                fed.wait_seconds = max(fed.wait_seconds, outcome)
            else:
                fed.failed.append(self._failed(batch, place, outcome))

    async def _queue(self, job: Job, document: dict[str, Any], principal: Principal) -> Fault | float | None:
        """None once it is a job; or why it never will be, or in how many seconds to try again."""
        _, ordinal = read_row(job.row or "")
        if not await self._room.take(job.target.provider, principal.account):
            return _NO_ROOM_SECONDS
        admitted = FREE
        try:
            self._means.memory.require_room()
            rules = self._admission.rules_of(principal, older_route=False)
            if rules:
                estimate = self._admission.estimate(job.plan, job.kind, document, len(job.body))
                admitted = await self._admission.admit(rules, job, estimate)
            await self._producer.enqueue(
                job, reply_to="", keep=True, cost=cost_of(job.kind, document, len(job.body))
            )
        except QuotaExceeded as exc:
            return refused(exc, ordinal=ordinal)
        except (RateLimited, Overloaded) as exc:
            # Overloaded after it was sent leaves open whether it is a job; then it is attached to next time.
            admitted.take_back()
            return exc.retry_after_seconds or 1.0
        except BrokerError as exc:
            admitted.take_back()
            logger.warning("line not queued", job_id=job.id, error=type(exc).__name__)
            return refused(exc, ordinal=ordinal)
        return None

    def _failed(self, batch: Batch, place: Place, fault: Fault) -> LineEnd:
        return LineEnd(batch.id, place.ordinal, LineState.FAILED, None, fault.to_wire(), at=self._clock.now())

    def _gone(self, batch: Batch, place: Place) -> LineEnd:
        fault = Fault(
            "input_file_not_found", "The input file was deleted before this request ran.", None, place.ordinal
        )
        return self._failed(batch, place, fault)
