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
import time
from collections.abc import Callable, Coroutine
from typing import Any

import arq
from arq.connections import RedisSettings
from loguru import logger
from redis.exceptions import RedisError, ResponseError

from shared import faultpoints
from shared.domain.job import Lane
from shared.queue.consumer import Consumer, Delivery
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings

RunJob = Callable[[dict[str, Any], Delivery], Coroutine[Any, Any, None]]

_READER = "reader"


class StreamWorker(arq.Worker):
    def __init__(
        self,
        run_job: RunJob,
        *,
        consumer: Consumer,
        read_link: RedisLink,
        queue: QueueSettings,
        slots: int,
        redis_settings: RedisSettings,
        drain_seconds: float,
        **hooks: Any,
    ) -> None:
        """`read_link` serves blocking reads alone; its timeout must exceed `queue.block_seconds`."""
        super().__init__(
            functions=[arq.func(run_job, name="run_job")],  # type: ignore[arg-type]
            queue_name=f"hr:arq:{consumer.name}",
            health_check_key=f"hr:health:{consumer.name}",
            redis_settings=redis_settings,
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
        self._slot_freed = asyncio.Event()
        self._running = 0
        self._next_sweep = 0.0
        self._read_connections = 0
        self._failures = 0

    async def _poll_iteration(self) -> None:
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
        if self._failures == 1 or self._failures % 10 == 0:
            logger.warning("queue not reachable", error=type(error).__name__, failures=self._failures)
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(2.0, 0.05 * 2 ** min(self._failures, 8)))  # noqa: S311
        await self._restore_groups(error)

    async def record_health(self) -> None:
        """arq's own would read the length of a queue that does not exist."""

    async def close(self) -> None:
        """arq's own would stop at the first task that ends in its cancellation, such as the reader."""
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await super().close()

    async def _restore_groups(self, error: BaseException) -> None:
        if isinstance(error, ResponseError) and "NOGROUP" in str(error):
            try:
                await self._consumer.create_groups()
            except (RedisError, OSError) as exc:
                logger.warning("consumer groups not created", error=type(exc).__name__)

    async def _read_until_stopped(self) -> None:
        while self.allow_pick_jobs:
            free = self._slots - self._running
            if free <= 0:
                self._slot_freed.clear()
                await self._slot_freed.wait()
                continue
            if time.monotonic() >= self._next_sweep:
                await self._sweep(free)
                free = self._slots - self._running
                if free <= 0:
                    continue
            for delivery in await self._read(free):
                self._start(delivery)
            self._failures = 0

    async def _sweep(self, free: int) -> None:
        """Take over what silent workers left."""
        self._next_sweep = time.monotonic() + self._queue.sweep_seconds * random.uniform(0.5, 1.5)  # noqa: S311
        if self._read_link.connections != self._read_connections:
            # The server was away, so nobody could renew: give every worker time to, first.
            known, self._read_connections = self._read_connections, self._read_link.connections
            if known:
                self._next_sweep = time.monotonic() + 1.5 * self._queue.heartbeat_seconds
                return
        for delivery in await self._consumer.reclaim(free):
            logger.info("job reclaimed", job_id=delivery.job_id, provider=delivery.provider)
            faultpoints.hit("W11")
            self._start(delivery)

    async def _read(self, free: int) -> list[Delivery]:
        """At most `free` deliveries, higher lanes first; waits up to `block_seconds` for one."""
        lanes = list(Lane)
        streams = sum(len(keys) for _, keys in self._consumer.lanes)
        block_ms = int(self._queue.block_seconds * 1000)
        if free >= streams:
            # COUNT holds for each stream, so a share for each cannot exceed what is free.
            return await self._fetch(lanes, count=free // streams, block_ms=block_ms, keep=free)
        for lane in lanes:
            found = await self._fetch([lane], count=1, block_ms=None, keep=free)
            if found:
                return found
        return await self._fetch(lanes, count=1, block_ms=block_ms, keep=free)

    async def _fetch(
        self, lanes: list[Lane], *, count: int, block_ms: int | None, keep: int
    ) -> list[Delivery]:
        command = self._consumer.read_command(lanes, count=count, block_ms=block_ms)
        read = asyncio.ensure_future(self._read_link.execute(*command))
        cancelled = False
        while not read.done():
            try:
                await asyncio.shield(read)
            except asyncio.CancelledError:
                cancelled = True
            except (RedisError, OSError):
                break
        found = self._consumer.deliveries(read.result())
        surplus = found if cancelled else found[keep:]
        for delivery in surplus:
            await self._consumer.release(delivery)
        if cancelled:
            raise asyncio.CancelledError
        return found[:keep]

    def _start(self, delivery: Delivery) -> None:
        self._running += 1
        key = f"{delivery.job_id}.{delivery.entry.decode()}"
        task = asyncio.create_task(self._run_job(self.ctx, delivery), name=key)
        self.tasks[key] = task

        def done(task: asyncio.Task[None]) -> None:
            self._running -= 1
            self._slot_freed.set()
            self.tasks.pop(key, None)
            self.jobs_complete += 1
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.opt(exception=error).error("job task died", job_id=delivery.job_id)

        task.add_done_callback(done)
