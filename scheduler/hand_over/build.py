"""Lines become files of requests, in the provider's words, and beside each a file of their jobs.

A file is an object that nobody sees until the batch names it: dying before, all are written anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches.input_file import input_of, lines_at
from scheduler.batches.line_jobs import job_of_line
from scheduler.batches.means import Means
from scheduler.hand_over.requests import BatchRequest, request_of, target_of
from scheduler.hand_over.reserve import budget_ms, without_calls
from scheduler.hand_over.survey import MAX_GROUPS
from shared.batches.faults import Fault
from shared.batches.handed_over import HandedOver, Part
from shared.clock import Clock
from shared.db.repositories import batch_lines
from shared.db.repositories.batch_lines import LineEnd, Place
from shared.db.repositories.batches import Batch
from shared.domain.batch import LineState
from shared.domain.job import Job
from shared.domain.principal import Principal
from shared.errors import Overloaded
from shared.limits.admission import Admission
from shared.providers.batch_apis import BatchApi
from shared.settings import Settings
from shared.storage.objects import NoSuchObject, Storage, Writer, new_key

BETWEEN: Final = b"\t"
"""Header and body of a job in a line of their file: no JSON has a bare one."""
_PAGE: Final = 500
_AT_ONCE: Final = 25


@dataclass(slots=True)
class Built:
    """`failed`: lines that the provider cannot be asked. `left`: those that do not go there after all."""

    parts: list[Part] = field(default_factory=list)
    failed: list[LineEnd] = field(default_factory=list)
    left: list[int] = field(default_factory=list)


class Builder:
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

    async def build(self, batch: Batch, handed: HandedOver, principal: Principal) -> Built:
        """All that is queued. Raises Overloaded, StorageUnavailable, and what the database raises."""
        profile = self._means.registry.get(handed.provider)
        built = Built()
        if profile.batches is None:
            built.left = [place.ordinal async for places in self._pages(batch) for place in places]
            return built
        writing = PartWriting(self._storage, profile.batches)
        try:
            async for places in self._pages(batch):
                await self._add(batch, handed, principal, places, writing, built)
            built.parts = await writing.ended()
        except BaseException:
            await writing.dropped()
            raise
        return built

    async def _pages(self, batch: Batch) -> AsyncIterator[list[Place]]:
        after = 0
        while True:
            async with self._database.connect() as connection:
                places = await batch_lines.queued(connection, batch.id, after=after, limit=_PAGE)
            if not places:
                return
            after = places[-1].ordinal
            yield places

    async def _add(
        self,
        batch: Batch,
        handed: HandedOver,
        principal: Principal,
        places: list[Place],
        writing: PartWriting,
        built: Built,
    ) -> None:
        file = await input_of(self._database, batch, self._clock)
        if file is None:
            built.failed += [self._gone(batch, place.ordinal) for place in places]
            return
        remaining = {place.ordinal for place in places}
        left_ms = budget_ms(batch, self._settings, self._clock)
        rules = without_calls(self._admission.rules_of(principal, older_route=False))
        longest = self._settings.api.max_body_bytes
        reading = lines_at(self._storage, file.storage_key, places, longest=longest)
        try:
            async with aclosing(reading) as lines:
                async for place, text in lines:
                    remaining.discard(place.ordinal)
                    if place.ordinal % _AT_ONCE == 0:
                        await asyncio.sleep(0)
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
                        raise Overloaded("Its provider takes nothing now.", retry_after_seconds=made)
                    request = made if isinstance(made, Fault) else self._request(handed, *made)
                    if isinstance(request, Fault):
                        built.failed.append(self._failed(batch, place.ordinal, request))
                    elif request is None or not await writing.add(request):
                        built.left.append(place.ordinal)
        except NoSuchObject:
            built.failed += [self._gone(batch, ordinal) for ordinal in sorted(remaining)]

    def _request(
        self, handed: HandedOver, job: Job, document: dict[str, object]
    ) -> BatchRequest | Fault | None:
        target = target_of(job, handed.provider, handed.credential)
        if target is None:
            return None
        # What was reserved for it, not what would be now.
        job = replace(job, held=handed.held)
        return request_of(job, document, target, self._means.registry.get(handed.provider))

    def _failed(self, batch: Batch, ordinal: int, fault: Fault) -> LineEnd:
        return LineEnd(batch.id, ordinal, LineState.FAILED, None, fault.to_wire(), at=self._clock.now())

    def _gone(self, batch: Batch, ordinal: int) -> LineEnd:
        message = "The input file was deleted before this request was handed over."
        return self._failed(batch, ordinal, Fault("input_file_not_found", message, None, ordinal))


@dataclass(slots=True)
class _Open:
    """A part that is being written."""

    stack: AsyncExitStack
    requests: Writer
    jobs: Writer
    part: Part
    count: int = 0
    weight: int = 0
    size: int = 0


class PartWriting:
    """One part of each group at a time."""

    def __init__(self, storage: Storage, api: BatchApi) -> None:
        self._storage = storage
        self._api = api
        self._open: dict[Hashable, _Open] = {}
        self._done: list[Part] = []

    async def add(self, request: BatchRequest) -> bool:
        """False where there would be too many groups."""
        api, text = self._api, request.text
        there = self._open.get(request.group)
        most = api.max_bytes - len(api.tail) - len(api.between)
        if there is not None and (
            there.weight + request.weight > api.max_requests or there.size + len(text) > most
        ):
            await self._end(request.group)
            there = None
        if there is None:
            if len(self._open) == MAX_GROUPS:
                return False
            there = await self._begin(request)
        before = api.between if there.count else api.head
        await there.requests.write(before + text)
        await there.jobs.write(request.job.header() + BETWEEN + request.job.body + b"\n")
        there.count += 1
        there.weight += request.weight
        there.size += len(before) + len(text)
        return True

    async def ended(self) -> list[Part]:
        for group in list(self._open):
            await self._end(group)
        return self._done

    async def dropped(self) -> None:
        """Nothing of what is being written is kept; what is whole already is swept."""
        for there in self._open.values():
            # It is raised on by whoever it reached.
            with contextlib.suppress(BaseException):
                await there.stack.__aexit__(*sys.exc_info())
        self._open.clear()

    async def _begin(self, request: BatchRequest) -> _Open:
        stack, requests_key, jobs_key = AsyncExitStack(), new_key(), new_key()
        there = _Open(
            stack=stack,
            requests=await stack.enter_async_context(self._storage.open_writer(requests_key)),
            jobs=await stack.enter_async_context(self._storage.open_writer(jobs_key)),
            part=Part(requests_key, jobs_key, request.endpoint, 0, dict(request.headers)),
        )
        self._open[request.group] = there
        return there

    async def _end(self, group: Hashable) -> None:
        there = self._open[group]
        await there.requests.write(self._api.tail)
        await there.stack.aclose()
        del self._open[group]
        self._done.append(replace(there.part, requests=there.count))
