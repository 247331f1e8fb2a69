"""Who does the harm, and writes down when and to whom: workers that kill themselves on cue."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Container, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from shared import keyspace
from shared.domain.job import TERMINAL, JobState, Lane
from shared.ids import JobId
from tests.chaos.history import Kill
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack

_LANES = [keyspace.lane(0, "openai", lane) for lane in Lane]


class Fleet:
    """Keeps so many workers running. Each new one is armed with the next point of the plan, and
    with `then` once the plan is through. As many may die as the plan has points, and none unarmed.
    """

    def __init__(self, stack: Stack, plan: Sequence[str], then: str) -> None:
        self.kills: list[Kill] = []
        self._stack = stack
        self._plan = iter(plan)
        self._then = then
        self._planned = len(plan)
        self._watched = 0
        self._dead: set[str] = set()

    @property
    def has_killed_all(self) -> bool:
        """Every kill of the plan happened."""
        return len(self.kills) == self._planned

    async def recovered(self, *, within: float = 30.0) -> None:
        """Every job that a kill met is running elsewhere, or has ended."""
        await eventually(lambda: self._watched == self._planned, "recovery after every kill", within=within)

    async def keep_one(self) -> None:
        while True:
            point = next(self._plan, self._then)
            worker = await self._stack.start_worker(faultpoints=point)
            await worker.has_ended(within=math.inf)
            at = time.time()
            self._stack.forget(worker)
            if not point or self.has_killed_all:
                raise RuntimeError(f"{worker.name} ended ({worker.exit_code}):\n{worker.output()[-2000:]}")
            consumer = consumer_of(worker)
            self._dead.add(consumer)
            async with redis_of(self._stack) as redis:
                kill = Kill(at, worker.name, point, frozenset(await held_by(redis, consumer)))
            self.kills.append(kill)
            self.watchers.create_task(self._watch(kill), name=f"watch-{worker.name}")

    watchers: asyncio.TaskGroup

    async def _watch(self, kill: Kill) -> None:
        await watch(self._stack, kill, self._dead)
        self._watched += 1


async def watch(stack: Stack, kill: Kill, dead: Container[str]) -> None:
    """Write down when each job that `kill` met ran with a worker that is not `dead`, or had ended."""
    async with redis_of(stack) as redis:
        while waiting := sorted(kill.in_flight - kill.recovered_at.keys()):
            async with redis.pipeline(transaction=False) as pipe:
                for job in waiting:
                    pipe.hmget(keyspace.job(0, JobId(job)), ["state", "consumer"])
                answers = await pipe.execute()
            now = time.time()
            for job, (state, holder) in zip(waiting, answers, strict=True):
                elsewhere = state == JobState.RUNNING and holder not in dead
                if elsewhere or state in TERMINAL:
                    kill.recovered_at[job] = now
            await asyncio.sleep(0.02)


@asynccontextmanager
async def fleet(
    stack: Stack, plan: Sequence[str] = (), *, then: str = "", size: int = 2
) -> AsyncIterator[Fleet]:
    """Its workers end with the block."""
    async with asyncio.TaskGroup() as group:
        keeper = Fleet(stack, plan, then)
        keeper.watchers = group
        keepers = [group.create_task(keeper.keep_one(), name=f"keep-{n}") for n in range(size)]
        try:
            yield keeper
        finally:
            for task in keepers:
                task.cancel()
    for worker in list(stack.workers):
        await stack.kill9(worker)


@asynccontextmanager
async def redis_of(stack: Stack) -> AsyncIterator[Redis]:
    async with Redis.from_url(stack.redis.url, decode_responses=True) as redis:
        yield redis


def consumer_of(worker: Process) -> str:
    consumer: str = worker.events("worker started")[0]["consumer"]
    return consumer


async def held_by(redis: Redis, consumer: str) -> list[str]:
    """The jobs delivered to that worker and not acknowledged."""
    held: list[str] = []
    for lane in _LANES:
        for pending in await redis.xpending_range(
            lane, keyspace.GROUP, "-", "+", 10_000, consumername=consumer
        ):
            entries = await redis.xrange(lane, pending["message_id"], pending["message_id"])
            held += [fields["job"] for _, fields in entries]
    return held
