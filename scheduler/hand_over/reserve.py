"""The limits of a batch's key, asked for each line before anything is handed over.

    pending ── admitted, committed ──> queued        a budget that is used up: failed
       └── a rate limit: later

A line is admitted before it is marked, and admitting the same line again changes nothing: dying in between,
it is asked for once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches.input_file import input_of, lines_at
from scheduler.batches.line_jobs import job_of_line
from scheduler.batches.means import Means
from shared.batches.faults import Fault
from shared.batches.lines import refused
from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import batch_lines
from shared.db.repositories.batch_lines import LineEnd, Place
from shared.db.repositories.batches import Batch
from shared.domain.batch import LineState, job_id_of, read_row
from shared.domain.job import Job
from shared.domain.principal import Principal
from shared.errors import Overloaded, QuotaExceeded, RateLimited
from shared.limits.admission import Admission
from shared.limits.rules import RuleSet
from shared.settings import Settings
from shared.storage.objects import NoSuchObject, Storage

_PAGE: Final = 500
_AT_ONCE: Final = 32
_LONGEST_WAIT_SECONDS: Final = 2.0
"""So that a batch that is cancelled meanwhile is heard of soon."""


def without_calls(rules: RuleSet) -> RuleSet:
    """What runs at a provider is no call of ours: how many there may be at once is nothing to it."""
    return RuleSet(rule for rule in rules.rules if rule.kind != "c")


class Reserver:
    def __init__(
        self,
        storage: Storage,
        database: AsyncEngine,
        admission: Admission,
        means: Means,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._database = database
        self._admission = admission
        self._means = means
        self._settings = settings
        self._clock = clock

    async def reserve(self, batch: Batch, principal: Principal) -> float | None:
        """A page of lines. In how many seconds to go on; None once there are no more.

        Raises what Redis, the database and the storage raise, and Overloaded where nobody can count.
        """
        async with self._database.connect() as connection:
            places = await batch_lines.pending(connection, batch.id, after=0, limit=_PAGE)
        if not places:
            return None
        rules = without_calls(self._admission.rules_of(principal, older_route=False))
        admitted, failed, wait = [place.ordinal for place in places], list[LineEnd](), 0.0
        if rules:
            admitted, failed, wait = await self._ask(batch, principal, places, rules)
        async with writing(self._database) as connection:
            await batch_lines.end(connection, failed)
            if admitted:
                await batch_lines.claim(connection, batch.id, admitted, at=self._clock.now())
        return min(wait, _LONGEST_WAIT_SECONDS)

    async def release(self, batch: Batch, ordinals: Iterable[int]) -> None:
        """What was reserved for lines that nobody answers. Raises RedisError."""
        waiting = [job_id_of(batch.id, ordinal) for ordinal in ordinals]
        for first in range(0, len(waiting), _AT_ONCE):
            await asyncio.gather(
                *(
                    self._admission.reservations.release(batch.account_id, job_id)
                    for job_id in waiting[first : first + _AT_ONCE]
                )
            )

    async def release_all(self, batch: Batch) -> None:
        after = 0
        while True:
            async with self._database.connect() as connection:
                page = await batch_lines.open_ones(connection, batch.id, after=after, limit=_PAGE)
            if not page:
                return
            after = page[-1]
            await self.release(batch, page)

    async def _ask(
        self, batch: Batch, principal: Principal, places: Sequence[Place], rules: RuleSet
    ) -> tuple[list[int], list[LineEnd], float]:
        """Those admitted, those that never will be, and how long the others have to wait."""
        file = await input_of(self._database, batch, self._clock)
        if file is None:
            # Whoever builds the requests tells so.
            return [place.ordinal for place in places], [], 0.0
        admitted: list[int] = []
        failed: list[LineEnd] = []
        waiting: list[tuple[Job, dict[str, Any]]] = []
        left_ms = budget_ms(batch, self._settings, self._clock)
        reading = lines_at(self._storage, file.storage_key, places, longest=self._settings.api.max_body_bytes)
        wait = 0.0
        try:
            async with aclosing(reading) as lines:
                async for place, text in lines:
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
                    if isinstance(made, float):
                        wait = made
                    elif isinstance(made, Fault):
                        failed.append(self._failed(batch, place.ordinal, made))
                    else:
                        waiting.append(made)
                    if len(waiting) == _AT_ONCE or wait:
                        wait = max(wait, await self._admit(batch, waiting, rules, admitted, failed))
                        waiting = []
                    if wait:
                        return admitted, failed, wait
        except NoSuchObject:
            return [place.ordinal for place in places], [], 0.0
        wait = await self._admit(batch, waiting, rules, admitted, failed)
        return admitted, failed, wait

    async def _admit(
        self,
        batch: Batch,
        some: Sequence[tuple[Job, dict[str, Any]]],
        rules: RuleSet,
        admitted: list[int],
        failed: list[LineEnd],
    ) -> float:
        outcomes = await asyncio.gather(
            *(self._one(job, document, rules) for job, document in some), return_exceptions=True
        )
        wait = 0.0
        for (job, _), outcome in zip(some, outcomes, strict=True):
            _, ordinal = read_row(job.row or "")
            if isinstance(outcome, QuotaExceeded):
                failed.append(self._failed(batch, ordinal, refused(outcome, ordinal=ordinal)))
            elif isinstance(outcome, RateLimited | Overloaded):
                wait = max(wait, outcome.retry_after_seconds or 1.0)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                admitted.append(ordinal)
        return wait

    async def _one(self, job: Job, document: dict[str, Any], rules: RuleSet) -> None:
        estimate = self._admission.estimate(job.plan, job.kind, document, len(job.body))
        await self._admission.admit(rules, job, estimate)

    def _failed(self, batch: Batch, ordinal: int, fault: Fault) -> LineEnd:
        return LineEnd(batch.id, ordinal, LineState.FAILED, None, fault.to_wire(), at=self._clock.now())


def budget_ms(batch: Batch, settings: Settings, clock: Clock) -> int:
    """How long its requests may take from now on, with the time that stopping them takes."""
    left = (batch.expires_at - clock.now()).total_seconds() + settings.batches.provider_cancel_seconds
    return max(1, int(left * 1000))
