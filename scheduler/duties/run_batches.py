"""Batches go on, each by a step at a time, until they have ended.

validating    check its lines
in_progress   feed a window of them, look for lost ones ── all ended ──> finalizing
              where a provider runs it: hand over, ask after it, fetch; what is left is fed
cancelling    end what waits, cut off what runs ── all ended ──> assemble
finalizing    assemble
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from loguru import logger
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches.assemble import Assembler
from scheduler.batches.check_lines import Checker
from scheduler.batches.feed_lines import Feeder
from scheduler.batches.listing import Listing
from scheduler.batches.means import Means
from scheduler.batches.principals import Principals
from scheduler.batches.room import Room
from scheduler.batches.stop_lines import Stopper
from scheduler.batches.turns import Turns
from scheduler.duties.keep_results import Keeper
from scheduler.hand_over.build import Builder
from scheduler.hand_over.hand_over import HandOver
from scheduler.hand_over.reserve import Reserver
from scheduler.hand_over.settle import Settler
from scheduler.hand_over.steps import Steps
from scheduler.hand_over.survey import Surveyor
from scheduler.rounds import Failures, OnRound, unheard
from shared.batches.faults import Fault
from shared.clock import Clock, SystemClock
from shared.db.engine import DATABASE_ERRORS, writing
from shared.db.repositories import batch_lines, batches
from shared.db.repositories.batches import Batch
from shared.domain.batch import BatchStatus, LineState
from shared.errors import BrokerError
from shared.ids import AccountId, BatchId
from shared.limits.admission import Admission
from shared.limits.reservations import Reservations
from shared.limits.rules import Policies
from shared.queue.ended import EndedJobs
from shared.queue.job_status import JobStatuses
from shared.queue.producer import Producer
from shared.queue.redis_link import RedisLink
from shared.queue.usage_stream import UsageStream
from shared.settings import Settings
from shared.storage.objects import Storage

_AT_ONCE: Final = 8
_OF_ACCOUNT: Final = 6
"""Of these, what the batches of one account may take, as one step may be long."""
_LISTED: Final = 200
_REMEMBERED_SECONDS: Final = 60.0
"""How long it is known when a batch that is not listed now was looked at."""
_COUNT_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 2.0
_UNFORESEEN_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Pace:
    """When a batch is looked at again, and when something of it was last done. Monotonic."""

    next_at: float = 0.0
    looked_at: float = 0.0
    counted_at: float = 0.0
    reconciled_at: float = 0.0


@dataclass(slots=True)
class BatchRunner:
    """One a process."""

    database: AsyncEngine
    listing: Listing
    checker: Checker
    feeder: Feeder
    stopper: Stopper
    assembler: Assembler
    principals: Principals
    turns: Turns
    means: Means
    ended: EndedJobs
    keeper: Keeper
    hand_over: HandOver
    settings: Settings
    clock: Clock
    on_round: OnRound = unheard
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    _listed: dict[BatchId, AccountId] = field(default_factory=dict)
    _listed_at: float = 0.0
    _failures: Failures = field(default_factory=lambda: Failures("batches not looked at"))
    _unseen: set[BatchId] = field(default_factory=set)
    """Of the page, as it was turned to, those that have not had their turn."""
    _paces: dict[BatchId, _Pace] = field(default_factory=dict)
    _served_at: dict[AccountId, float] = field(default_factory=dict)
    _running: dict[BatchId, asyncio.Task[None]] = field(default_factory=dict)
    _running_of: Counter[AccountId] = field(default_factory=Counter)

    async def run(self) -> None:
        """For ever."""
        try:
            while True:
                self.woken.clear()
                await self._start_due()
                try:
                    async with asyncio.timeout(self.settings.batches.look_seconds):
                        await self.woken.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def on_lines(self) -> None:
        """Lines were kept: there may be room for others."""
        for pace in self._paces.values():
            pace.next_at = 0.0
        self.woken.set()

    async def _start_due(self) -> None:
        try:
            if time.monotonic() - self._listed_at >= self.settings.batches.look_seconds:
                await self._list()
            chosen = self._choose()
            if not chosen:
                self.on_round(True)
                return
            async with self.database.connect() as connection:
                found = {one.id: one for one in await batches.some_open(connection, chosen)}
        except DATABASE_ERRORS as exc:
            self._failures.note(exc)
            self.on_round(False)
            return
        self.on_round(True)
        self._failures.end()
        now = time.monotonic()
        for batch_id in chosen:
            account, pace = self._listed[batch_id], self._paces[batch_id]
            self._unseen.discard(batch_id)
            if batch_id not in found:
                # It ended; another may have its place.
                del self._listed[batch_id], self._paces[batch_id]
                self.woken.set()
                continue
            pace.looked_at = self._served_at[account] = now
            task = asyncio.create_task(self._go_on(found[batch_id], pace), name="batch")
            self._running[batch_id] = task
            self._running_of[account] += 1
            task.add_done_callback(partial(self._on_done, batch_id, account))

    async def _list(self) -> None:
        """Raises what the database raises."""
        is_new = not self._unseen
        if is_new:
            self.listing.turn()
        self._listed = await self.listing.page()
        self._listed_at = now = time.monotonic()
        since = now - _REMEMBERED_SECONDS
        known = {batch_id: pace for batch_id, pace in self._paces.items() if pace.looked_at > since}
        listed = {batch_id: self._paces.get(batch_id, _Pace()) for batch_id in self._listed}
        self._paces = known | listed
        if is_new:
            # What waits for a while must not hold up the next page.
            due = {batch_id for batch_id, pace in listed.items() if pace.next_at <= now}
            self._unseen = due - self._running.keys()
        self._unseen &= self._listed.keys()
        self._served_at = {account: at for account, at in self._served_at.items() if at > since}

    def _choose(self) -> list[BatchId]:
        """What is due, as far as there is room: accounts in turn, and of one its batches in turn. Those that
        were looked at longest ago go first.
        """
        now = time.monotonic()
        due: dict[AccountId, list[BatchId]] = {}
        for batch_id, account in self._listed.items():
            if batch_id not in self._running and self._paces[batch_id].next_at <= now:
                due.setdefault(account, []).append(batch_id)
        places: list[tuple[int, float, BatchId]] = []
        for account, ids in due.items():
            ids.sort(key=lambda one: self._paces[one].looked_at)
            running = self._running_of[account]
            places += [
                (running + n, self._served_at.get(account, 0.0), batch_id)
                for n, batch_id in enumerate(ids[: max(0, _OF_ACCOUNT - running)])
            ]
        return [batch_id for _, _, batch_id in sorted(places)[: _AT_ONCE - len(self._running)]]

    def _on_done(self, batch_id: BatchId, account: AccountId, _: asyncio.Task[None]) -> None:
        del self._running[batch_id]
        self._running_of[account] -= 1
        if not self._running_of[account]:
            del self._running_of[account]
        self.woken.set()

    async def _go_on(self, batch: Batch, pace: _Pace) -> None:
        pause = self.settings.batches.look_seconds
        try:
            async with self.turns.of(batch.id) as is_ours:
                if is_ours:
                    pause = await self.step(batch, pace)
        except (RedisError, BrokerError, *DATABASE_ERRORS) as exc:
            logger.warning("batch waits", batch_id=batch.id, error=type(exc).__name__)
            pause = _RETRY_SECONDS
        except Exception:
            # One that cannot be gone on with must not stop the others.
            logger.exception("batch fails to go on", batch_id=batch.id)
            pause = _UNFORESEEN_SECONDS
        pace.next_at = time.monotonic() + pause

    async def step(self, batch: Batch, pace: _Pace | None = None) -> float:
        """In how many seconds the next one is due. Raises what Redis, the database and the storage raise."""
        pace = pace or _Pace()
        match batch.status:
            case BatchStatus.VALIDATING:
                await self.checker.check(batch)
                return 0.0
            case BatchStatus.IN_PROGRESS:
                return await self._go_on_running(batch, pace)
            case BatchStatus.CANCELLING:
                pause = await self._go_on_handed_over(batch, pace)
                return await self._cancel(batch) if pause is None else pause
            case BatchStatus.FINALIZING:
                await self.assembler.assemble(batch)
        return 0.0

    async def _go_on_handed_over(self, batch: Batch, pace: _Pace) -> float | None:
        """None where what there is of it is run line by line, or ends so."""
        if batch.handed_over is None:
            return None
        if batch.status is BatchStatus.CANCELLING or self.clock.now() >= batch.expires_at:
            pause = await self.hand_over.go_on(batch, None, is_stopping=True)
        elif not self.means.is_ready:
            return self.settings.batches.look_seconds
        else:
            principal = await self.principals.of(batch)
            pause = await self.hand_over.go_on(batch, principal, is_stopping=principal is None)
        if pause is not None and time.monotonic() - pace.counted_at >= _COUNT_SECONDS:
            pace.counted_at = time.monotonic()
            await self._count(batch)
        return pause

    async def _go_on_running(self, batch: Batch, pace: _Pace) -> float:
        now = self.clock.now()
        if (pause := await self._go_on_handed_over(batch, pace)) is not None:
            return pause
        if now >= batch.expires_at:
            if not await self.stopper.stop(
                batch, LineState.EXPIRED, since=batch.expires_at, within_seconds=_STOP_SECONDS
            ):
                return self.settings.batches.look_seconds
            await self.stopper.tell_as_expired(batch)
            return await self._finalize(batch)
        if not self.means.is_ready:
            return self.settings.batches.look_seconds
        principal = await self.principals.of(batch)
        if principal is None:
            fault = Fault("invalid_api_key", "The API key of this batch is revoked, expired, or may not ask.")
            done = await self.stopper.stop(
                batch, LineState.FAILED, since=batch.created_at, within_seconds=86_400, result=fault.to_wire()
            )
            return await self._finalize(batch) if done else self.settings.batches.look_seconds
        if time.monotonic() - pace.reconciled_at >= self.settings.jobs.reconcile_seconds:
            pace.reconciled_at = time.monotonic()
            again = await self.feeder.feed_lost(batch, principal, self.ended, self.keeper)
            if again:
                logger.info("lost lines queued again", batch_id=batch.id, count=again)
        pause = await self.feeder.feed(batch, principal)
        if pause is None:
            pause = 0.0
        elif await self._all_ended(batch):
            return await self._finalize(batch)
        if time.monotonic() - pace.counted_at >= _COUNT_SECONDS:
            pace.counted_at = time.monotonic()
            await self._count(batch)
        return pause

    async def _cancel(self, batch: Batch) -> float:
        if batch.total < (batch.requests or 0) and await self.checker.read_rest(batch):
            return 0.0
        since = batch.cancelling_at or batch.created_at
        most = self.settings.batches.cancel_seconds
        if not await self.stopper.stop(batch, LineState.CANCELLED, since=since, within_seconds=most):
            await self._count(batch)
            return self.settings.batches.look_seconds
        await self.assembler.assemble(batch)
        return 0.0

    async def _all_ended(self, batch: Batch) -> bool:
        async with self.database.connect() as connection:
            if await batch_lines.count_in(connection, batch.id, LineState.QUEUED):
                return False
            if not await batch_lines.pending(connection, batch.id, after=0, limit=1):
                return True
        async with writing(self.database) as connection:
            await batches.feed_again(connection, batch.id, behind=0)
        return False

    async def _finalize(self, batch: Batch) -> float:
        async with writing(self.database) as connection:
            await batches.change(connection, batch, BatchStatus.FINALIZING, at=self.clock.now())
        return 0.0

    async def _count(self, batch: Batch) -> None:
        async with self.database.connect() as connection:
            counts = await batch_lines.counts(connection, batch.id)
        async with writing(self.database) as connection:
            await batches.count(
                connection,
                batch.id,
                completed=counts[LineState.SUCCEEDED],
                failed=counts[LineState.FAILED],
                cancelled=counts[LineState.CANCELLED],
                expired=counts[LineState.EXPIRED],
            )


def batch_runner(
    link: RedisLink,
    database: AsyncEngine,
    storage: Storage,
    means: Means,
    settings: Settings,
    *,
    clock: Clock | None = None,
    on_round: OnRound = unheard,
) -> BatchRunner:
    clock = clock or SystemClock()
    queue = settings.queue
    producer = Producer(link, queue)
    ended = EndedJobs(link, queue)
    admission = Admission(
        Reservations(link),
        database,
        means.catalogue,
        means.registry,
        Policies.of(settings),
        settings,
        clock,
    )
    room = Room(link, most=settings.batches.provider_window, shards=queue.shards)
    principals = Principals(database, clock)
    surveyor = Surveyor(storage, database, admission, means, principals, settings, clock)
    hand_over = HandOver(
        database=database,
        storage=storage,
        reserver=Reserver(storage, database, admission, means, settings, clock),
        builder=Builder(storage, database, admission, means, settings, clock),
        steps=Steps(producer, ended, settings.batches),
        settler=Settler(storage, database, UsageStream(link, shards=queue.shards), means, settings, clock),
        settings=settings,
        clock=clock,
    )
    return BatchRunner(
        database=database,
        listing=Listing(database, most=_LISTED),
        checker=Checker(storage, database, settings, clock, survey=surveyor.look),
        feeder=Feeder(storage, database, producer, admission, means, room, settings, clock),
        stopper=Stopper(database, producer, JobStatuses(link, queue), clock),
        assembler=Assembler(storage, database, settings, clock),
        principals=principals,
        turns=Turns(link),
        means=means,
        ended=ended,
        keeper=Keeper(ended, database),
        hand_over=hand_over,
        settings=settings,
        clock=clock,
        on_round=on_round,
    )
