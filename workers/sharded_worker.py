"""The same worker on a Redis Cluster, where no command can name lanes of two shards.

    slots to spare:  one blocking read a shard, each on a connection of its own
    few left:        a look at every shard each _LOOK_SECONDS
    some shard may hold more:  fetched from all of those, a whole lane before the next lower one,
                     for exactly as many jobs as there are free slots

Each shard fails, pauses and comes back by itself: a node that is away costs its own shards only.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

from loguru import logger
from redis.exceptions import RedisError

from shared.domain.job import Lane
from shared.queue.redis_link import RedisLink
from workers.stream_worker import UNREACHED, StreamWorker

_LOOK_SECONDS: Final = 0.05
_SWEPT_AT_ONCE: Final = 2
_SWEEPER: Final = "sweeper"

_T = TypeVar("_T")


class ShardedStreamWorker(StreamWorker):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._shards = range(self._queue.shards)
        patience = self._queue.block_seconds + self._queue.worker_timeout_seconds
        self._shard_links: list[RedisLink] = [self._read_link.another(timeout=patience) for _ in self._shards]
        self._lanes: dict[Lane, list[tuple[str, int]]] = {
            lane: [(key, shard) for key, shard, _ in streams] for lane, streams in self._consumer.lanes
        }
        self._waiting: set[int] = set()
        """Shards at which a read blocks. Each may take a slot at any moment, so it counts as taken."""
        self._may_hold: set[int] = set(self._shards)
        """Shards with jobs that may be had at once."""
        self._failed: dict[int, int] = {}
        """Times in a row, and until when a shard is left alone for it."""
        self._resume_at: dict[int, float] = {}
        self._swept: dict[int, Hashable] = {}
        self._sweep_from: dict[int, float] = {}
        self._fatal: BaseException | None = None

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await asyncio.gather(*(link.close() for link in self._shard_links))

    @property
    def is_reading(self) -> bool:
        return len(self._failed) < len(self._shards)

    @property
    def _spare(self) -> int:
        return self._free - len(self._waiting)

    async def _read_until_stopped(self) -> None:
        while self.allow_pick_jobs:
            if self._fatal is not None:
                raise self._fatal
            self._came_round_at = time.monotonic()
            self._slot_freed.clear()
            now = time.monotonic()
            if self._free <= 0:
                self._may_hold.update(self._shards)
            if self._spare <= 0:
                await self._until_slot_freed()
                continue
            if now >= self._next_sweep and _SWEEPER not in self.tasks:
                self._own(_SWEEPER, self._sweep_shards(), lambda: None)
            ready = {shard for shard in self._shards if self._resume_at.get(shard, 0) <= now}
            if self._may_hold & ready:
                await self._fetch_from(self._may_hold & ready)
                continue
            await self._wait_for_jobs(ready - self._waiting)

    async def _wait_for_jobs(self, uncovered: set[int]) -> None:
        """Until a read ends, a slot is freed, or it is time to look after something else."""
        pause = min([self._next_sweep, *self._resume_at.values()]) - time.monotonic()
        if len(uncovered) <= self._spare:
            for shard in uncovered:
                self._waiting.add(shard)
                self._own(f"reader-{shard}", self._read_shard(shard), partial(self._waiting.discard, shard))
        else:
            self._may_hold |= uncovered
            pause = _LOOK_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(max(pause, _LOOK_SECONDS)):
                await self._slot_freed.wait()

    async def _read_shard(self, shard: int) -> None:
        keys = [
            key
            for lane, streams in self._lanes.items()
            if self._room(lane) > 0
            for key, at in streams
            if at == shard
        ]
        self._looked_at = dict.fromkeys(Lane, time.monotonic())
        # More than one even when slots are few: one job alone then does not look like a backlog.
        count = max(2, self._free // (len(keys) * len(self._shards)))
        link = self._shard_links[shard]
        with self._of(shard):
            found = await self._fetch(keys, count=count, block_ms=self._block_ms, link=link)
            if found >= count:
                self._may_hold.add(shard)

    async def _fetch_from(self, shards: set[int]) -> None:
        """What waits there, until it is all had or the slots are."""
        self._turn += 1
        for lane, limit in self._turns():
            most = limit
            streams = [stream for stream in self._lanes[lane] if stream[1] in shards]
            first = self._turn % len(streams) if streams else 0
            streams = streams[first:] + streams[:first]
            while streams:
                if self._spare <= 0 or not self.allow_pick_jobs:
                    return
                spare = min(self._spare, self._room(lane), most)
                if spare <= 0:
                    break
                self._looked_at[lane] = time.monotonic()
                batch, streams = streams[:spare], streams[spare:]
                count = spare // len(batch)
                found = await _all(self._fetch_one(key, at, count) for key, at in batch)
                # Those that gave as many as they were asked for may have more.
                streams += [stream for stream, n in zip(batch, found, strict=True) if n >= count]
                most -= sum(found)
        self._may_hold -= shards - self._failed.keys()

    async def _fetch_one(self, key: str, shard: int, count: int) -> int:
        with self._of(shard):
            return await self._fetch([key], count=count, block_ms=None)
        return 0

    async def _sweep_shards(self) -> None:
        """Take over what silent workers left, at as many shards as there are slots for."""
        self._next_sweep = time.monotonic() + self._queue.sweep_seconds * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        spare = min(self._spare, len(self._shards))
        if spare > 0:
            free = self._spare // spare
            # Few at a time, so that jobs get their turn in between.
            turn = asyncio.Semaphore(_SWEPT_AT_ONCE)
            shards = random.sample(self._shards, spare)
            await _all(self._sweep_shard(at, free, turn) for at in shards)

    async def _sweep_shard(self, shard: int, free: int, turn: asyncio.Semaphore) -> None:
        async with turn:
            if self._resume_at.get(shard, 0) > time.monotonic():
                return
            await self._sweep_reachable_shard(shard, free)

    async def _sweep_reachable_shard(self, shard: int, free: int) -> None:
        with self._of(shard):
            reached = await self._consumer.reach(shard)
            known, self._swept[shard] = self._swept.get(shard), reached
            if known not in {None, reached}:
                # Its node was away, so nobody could renew: give every worker time to, first.
                self._sweep_from[shard] = time.monotonic() + 1.5 * self._queue.heartbeat_seconds
            if time.monotonic() >= self._sweep_from.get(shard, 0):
                await self._take(
                    self._consumer.reclaim(max(1, free), shard=shard), start=self._start_reclaimed
                )

    @contextmanager
    def _of(self, shard: int) -> Iterator[None]:
        """A failure within is one of this shard: it is left alone for a while."""
        try:
            yield
        except (RedisError, OSError) as exc:
            failures = self._failed[shard] = self._failed.get(shard, 0) + 1
            if failures == 1 or failures % 10 == 0:
                logger.warning(
                    "shard not reachable", shard=shard, error=type(exc).__name__, failures=failures
                )
            pause = random.uniform(0.5, 1.0) * min(2.0, 0.05 * 2 ** min(failures, 8))  # noqa: S311 - jitter
            self._resume_at[shard] = time.monotonic() + pause
            self._may_hold.add(shard)
            self._swept[shard] = UNREACHED
            if "groups" not in self.tasks:
                self._own("groups", self._restore_groups(exc), lambda: None)
        else:
            self._failed.pop(shard, None)
            self._resume_at.pop(shard, None)

    def _own(self, name: str, work: Coroutine[Any, Any, None], ended: Callable[[], None]) -> None:
        """A task that arq's shutdown waits for."""
        task = self.tasks[name] = asyncio.create_task(work, name=name)

        def done(task: asyncio.Task[None]) -> None:
            self.tasks.pop(name, None)
            ended()
            self._slot_freed.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fatal = error

        task.add_done_callback(done)


async def _all(works: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """What each of them gave, once all have ended: cancelled too, for what they fetched they release."""
    ended = await asyncio.gather(*works, return_exceptions=True)
    results: list[_T] = []
    for result in ended:
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
