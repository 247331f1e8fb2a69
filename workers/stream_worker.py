"""An arq worker that takes its jobs from streams.

arq keeps process life: startup and shutdown hooks, signals, waiting for running jobs.
Delivery is ours, so `_poll_iteration` is the only part of its loop that is replaced
(and `record_health`, which reads arq's own queue). Everything that runs sits in
`self.tasks`, where arq's SIGTERM path waits for it; the reader sits there too, because
a blocking read must never be cancelled: what it had fetched would be stranded.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterator
from typing import Any, Final, TypeVar

import arq
from arq.connections import ArqRedis
from loguru import logger
from redis.exceptions import RedisError, ResponseError

from shared import faultpoints
from shared.domain.job import Lane
from shared.observability import metrics
from shared.queue.arq_pool import TAG
from shared.queue.consumer import Consumer, Delivery
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings

RunJob = Callable[[dict[str, Any], Delivery], Coroutine[Any, Any, None]]

_READER = "reader"
_LEFT_OUT_MS = 50

UNREACHED: Final = object()
"""In place of what was reached last. A server may refuse all there is to do, and keep its connections."""

_T = TypeVar("_T")


class StreamWorker(arq.Worker):
    def __init__(
        self,
        run_job: RunJob,
        *,
        consumer: Consumer,
        read_link: RedisLink,
        queue: QueueSettings,
        slots: int,
        redis_pool: ArqRedis,
        drain_seconds: float,
        batch_slots: int | None = None,
        **hooks: Any,
    ) -> None:
        """`read_link` serves blocking reads alone; its timeout must exceed `queue.block_seconds`.

        `redis_pool`: arq's own connections. With timeouts, or a Redis that hangs hangs the shutdown.
        """
        super().__init__(
            functions=[arq.func(run_job, name="run_job")],  # type: ignore[arg-type]  # arq's protocol names the context's arguments
            queue_name=f"hr:{TAG}:{consumer.name}",
            health_check_key=f"hr:{TAG}:health:{consumer.name}",
            redis_pool=redis_pool,
            max_jobs=slots,
            poll_delay=0,
            job_completion_wait=int(drain_seconds),
            retry_jobs=False,
            **hooks,
        )
        self._run_job = run_job
        self._consumer = consumer
        self._read_link = read_link
        self._queue = queue
        self._slots = slots
        self._batch_slots = slots if batch_slots is None else batch_slots
        self._slot_freed = asyncio.Event()
        self._running = 0
        self._running_in: Counter[Lane] = Counter()
        self._looked_at = dict.fromkeys(Lane, time.monotonic())
        """When each lane was last asked for jobs."""
        self._next_sweep = 0.0
        self._swept_at: Hashable = None
        self._failures = 0
        self._turn = 0
        self._may_be_backlog = True
        self._unbegun: list[Delivery] = []
        self._is_stopping = False
        self._waits_for_slot = False
        self._came_round_at = time.monotonic()
        self.on_stop = self._stop

    def _stop(self, _: signal.Signals) -> None:
        self._is_stopping = True

    @property
    def stalled_seconds(self) -> float:
        """How long ago its loop last came round; 0 while every slot is taken, however long that is."""
        return 0.0 if self._waits_for_slot else time.monotonic() - self._came_round_at

    @property
    def running(self) -> int:
        """Jobs that it has."""
        return self._running

    @property
    def is_draining(self) -> bool:
        return self._is_stopping or not self.allow_pick_jobs

    @property
    def is_reading(self) -> bool:
        """Whether its last read of the queue succeeded."""
        return self._failures == 0

    async def _poll_iteration(self) -> None:
        self._came_round_at = time.monotonic()
        if self._is_stopping:
            # arq ends its loop by cancelling it, which gets lost where that awaits redis-py: a
            # cancelled asyncio.wait_for of Python 3.11 returns the result that came with it.
            raise asyncio.CancelledError
        if not self.allow_pick_jobs:
            await asyncio.sleep(0.05)
            return
        reader = asyncio.create_task(self._read_until_stopped(), name=_READER)
        self.tasks[_READER] = reader
        reader.add_done_callback(lambda _: self.tasks.pop(_READER, None))
        # Not awaited directly: arq cancels its main task to stop, and the read must outlive that.
        await asyncio.wait({reader})
        error = reader.exception()
        if error is None:
            return
        if not isinstance(error, RedisError | OSError):
            raise error
        self._failures += 1
        self._swept_at = UNREACHED
        if self._failures == 1 or self._failures % 10 == 0:
            logger.warning("queue not reachable", error=type(error).__name__, failures=self._failures)
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(2.0, 0.05 * 2 ** min(self._failures, 8)))  # noqa: S311 - jitter
        await self._restore_groups(error)

    async def record_health(self) -> None:
        """arq's own would read the length of a queue that does not exist."""

    async def close(self) -> None:
        """arq's own would stop at the first task that ends in its cancellation, such as the reader."""
        while self.tasks:
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
            # Each leaves by a callback of its own. Where all have ended, gather of Python 3.12 and later
            # returns before those have run.
            await asyncio.sleep(0)
        await self._release(self._unbegun)
        try:
            await super().close()
        except (RedisError, OSError):
            # Without Redis it stops at its health key, one line before the hook.
            if self.on_shutdown:
                await self.on_shutdown(self.ctx)
            raise

    async def _restore_groups(self, error: BaseException) -> None:
        if isinstance(error, ResponseError) and "NOGROUP" in str(error):
            try:
                await self._consumer.create_groups()
            except (RedisError, OSError) as exc:
                logger.warning("consumer groups not created", error=type(exc).__name__)

    async def _read_until_stopped(self) -> None:
        while self.allow_pick_jobs:
            self._came_round_at = time.monotonic()
            if self._free <= 0:
                self._may_be_backlog = True
                self._slot_freed.clear()
                await self._until_slot_freed()
                continue
            if time.monotonic() >= self._next_sweep:
                await self._sweep(self._free)
                if self._free <= 0:
                    continue
            await self._read()
            self._failures = 0

    async def _until_slot_freed(self) -> None:
        self._waits_for_slot = True
        try:
            await self._slot_freed.wait()
        finally:
            self._waits_for_slot = False
            self._came_round_at = time.monotonic()

    @property
    def _free(self) -> int:
        return self._slots - self._running

    def _room(self, lane: Lane) -> int:
        """Free slots that a job of this lane may take: batch work leaves some for the others."""
        if lane is not Lane.BATCH:
            return self._free
        return min(self._free, self._batch_slots - self._running_in[lane])

    @property
    def _block_ms(self) -> int:
        """How long to wait for a first job: not long while a lane is left out, as its turn may come."""
        is_left_out = self._room(Lane.BATCH) <= 0
        return _LEFT_OUT_MS if is_left_out else int(self._queue.block_seconds * 1000)

    def _turns(self) -> Iterator[tuple[Lane, int]]:
        """The lanes in the order to read them, and how many jobs each may give at most.

        Higher ones first. But one that was passed over for `lane_ageing_seconds` gets a few slots
        before them, so that it is slow and not starved.
        """
        for lane in list(Lane)[1:]:
            if time.monotonic() - self._looked_at[lane] >= self._queue.lane_ageing_seconds:
                yield lane, max(1, self._free // 8)
        for lane in Lane:
            yield lane, self._slots

    async def _sweep(self, free: int) -> None:
        """Take over what silent workers left."""
        self._next_sweep = time.monotonic() + self._queue.sweep_seconds * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        # Asked of the link that reclaims, and once it is up: another one may reconnect sooner or later.
        reached = await self._consumer.reach(0)
        if reached != self._swept_at:
            # The server was away, so nobody could renew: give every worker time to, first.
            known, self._swept_at = self._swept_at, reached
            if known is not None:
                self._next_sweep = time.monotonic() + 1.5 * self._queue.heartbeat_seconds
                return
        await self._take(self._consumer.reclaim(free), start=self._start_reclaimed)

    async def _read(self) -> None:
        """Start what waits, as far as there are free slots; waits up to `block_seconds` for a first job.

        A backlog is read one stream at a time, higher lanes first, the providers of a lane in turn.
        COUNT holds for each stream, so one read of all would give the lower lanes a share of the slots.
        """
        lanes = {lane: [key for key, _, _ in streams] for lane, streams in self._consumer.lanes}
        keys = [key for lane, streams in lanes.items() if self._room(lane) > 0 for key in streams]
        if self._may_be_backlog or self._free < len(keys):
            self._turn += 1
            found = 0
            for lane, most in self._turns():
                streams = lanes[lane]
                first = self._turn % len(streams) if streams else 0
                for key in streams[first:] + streams[:first]:
                    count = min(most, self._room(lane))
                    if self._free <= 0 or not self.allow_pick_jobs:
                        return
                    if count > 0:
                        self._looked_at[lane] = time.monotonic()
                        found += await self._fetch([key], count=count, block_ms=None)
            if found:
                return
        self._looked_at = dict.fromkeys(Lane, time.monotonic())
        count = max(1, self._free // len(keys))
        found = await self._fetch(keys, count=count, block_ms=self._block_ms)
        # Fewer than COUNT, and no stream can hold more than it gave.
        self._may_be_backlog = found >= count

    async def _fetch(
        self, keys: list[str], *, count: int, block_ms: int | None, link: RedisLink | None = None
    ) -> int:
        """How many were found. More than there are free slots are given back."""
        command = self._consumer.read_command(keys, count=count, block_ms=block_ms)

        async def read() -> list[Delivery]:
            return self._consumer.deliveries(await (link or self._read_link).execute(*command))

        return await self._take(read(), start=self._start)

    async def _take(
        self, taking: Coroutine[Any, Any, list[Delivery]], *, start: Callable[[Delivery], None]
    ) -> int:
        """How many deliveries `taking` brought. As many as there are free slots are started; the rest
        is released, and all of it when cancelled.

        Awaited to its end in any case: what a cancelled read had fetched would be stranded.
        """
        found, cancelled = await _to_its_end(taking)
        kept = 0 if cancelled else max(0, self._free)
        for delivery in found[:kept]:
            start(delivery)
        if surplus := found[kept:]:
            _, cancelled_later = await _to_its_end(self._release(surplus))
            cancelled |= cancelled_later
        if cancelled:
            raise asyncio.CancelledError
        return len(found)

    async def _release(self, deliveries: list[Delivery]) -> None:
        answers = await asyncio.gather(
            *(self._consumer.release(delivery) for delivery in deliveries), return_exceptions=True
        )
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            logger.warning("deliveries not released", jobs=len(failed), error=type(failed[0]).__name__)

    def _start_reclaimed(self, delivery: Delivery) -> None:
        metrics.count_requeue(delivery.provider, "reclaimed")
        logger.info("job reclaimed", job_id=delivery.job_id, provider=delivery.provider)
        faultpoints.hit("W11")
        self._start(delivery)

    def _start(self, delivery: Delivery) -> None:
        self._running += 1
        self._running_in[delivery.lane] += 1
        key = f"{delivery.job_id}.{delivery.entry.decode()}"
        task = asyncio.create_task(self._run_job(self.ctx, delivery), name=key)
        self.tasks[key] = task

        def done(task: asyncio.Task[None]) -> None:
            self._running -= 1
            self._running_in[delivery.lane] -= 1
            self._slot_freed.set()
            self.tasks.pop(key, None)
            self.jobs_complete += 1
            if task.cancelled():
                # Before its first step, so that nothing in it could give the job back.
                self._unbegun.append(delivery)
            elif (error := task.exception()) is not None:
                logger.opt(exception=error).error("job task died", job_id=delivery.job_id)

        task.add_done_callback(done)


async def _to_its_end(work: Coroutine[Any, Any, _T]) -> tuple[_T, bool]:
    """What came of it, and whether this was cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    return task.result(), cancelled
