"""Jobs answered 202, while whatever holds them is killed, emptied, or left behind: none is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from shared import keyspace
from tests.chaos import size
from tests.chaos.async_jobs import (
    Submissions,
    broken_promises,
    changed,
    keep_running,
    read_results,
    settled,
    submit_all,
)
from tests.chaos.callers import Manner, scripts, session_of
from tests.chaos.leases import SHORT
from tests.chaos.nemesis import fleet, redis_of
from tests.fakes.eventually import eventually
from tests.fakes.redis_cluster import RedisCluster
from tests.fakes.redis_server import RedisServer
from tests.fakes.stack import Process, Stack
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(1800)]

MANNER = Manner(streams=0.0)
WORKER_POINTS = ["W1", "W2", "W3", "W4", "W6", "W7", "W8", "W9", "W11"] if size.is_full() else ["W4", "W9"]
"""Jobs whose callers wait meet all of them in every run."""


def jobs() -> int:
    return size.jobs(ci=1_000)


def calls_of(broker: Stack, prefix: str) -> Counter[str]:
    """How often each request was answered by the provider, or was about to be."""
    return Counter(call.cue for call in broker.calls() if call.cue and call.cue.startswith(prefix))


async def judge(
    broker: Stack,
    done: Submissions,
    what: str,
    *,
    began: float,
    extra_calls: int,
    may_fail: bool = False,
    **figures: object,
) -> None:
    async with session_of(broker.api_key) as session:
        await read_results(broker, session, done)
        await settled(broker)
        differing = await changed(broker, session, done)
    ledger = Counter(row["job_id"] for row in await broker.ledger())
    accepted = {one.job for one in done.accepted}
    calls = calls_of(broker, done.all[0].script.name.rpartition("-")[0])
    size.report(
        what,
        submitted=len(done.all),
        accepted=len(accepted),
        succeeded=sum(one.state == "succeeded" for one in done.accepted),
        failed=sum(one.state == "failed" for one in done.accepted),
        extra_calls=sum(count - 1 for count in calls.values() if count > 1),
        changed=len(differing),
        seconds=round(time.monotonic() - began, 1),
        **figures,
    )
    assert len(accepted) >= jobs()
    assert differing == []
    assert broken_promises(done, calls, extra_calls=extra_calls, may_fail=may_fail) == []
    # Each is in the ledger once; what a flush took of the usage stream is not there at all.
    assert [job for job in accepted if ledger[job] > 1] == []


@pytest.mark.parametrize("point", WORKER_POINTS)
async def test_killed_workers_lose_no_accepted_job(point: str, broker: Stack) -> None:
    rng = size.dice(f"async {point}")
    began = time.monotonic()
    done = Submissions()
    manner = Manner(streams=0.0, refusals=int(point == "W9"))
    kills = 8 if size.is_full() else 2
    plan = [f"{point}@{rng.randint(2, 12)}" for _ in range(kills)]
    workers = 2
    if point == "W11":
        workers, plan = (
            1,
            [f"{name}@{rng.randint(2, 4)}" for _ in range(kills // 2) for name in ("W4", "W11")],
        )
    asks = scripts(f"async-{point}", rng, manner)
    async with session_of(broker.api_key) as session, fleet(broker, plan, size=workers) as fleet_:
        await submit_all(
            broker, session, asks, done, submitters=16, jobs=jobs(), until=lambda: fleet_.has_killed_all
        )
        met = sum(len(kill.in_flight) for kill in fleet_.kills)
        refusals = len(done.all) if point == "W9" else 0
        await judge(
            broker, done, f"async, workers killed at {point}", began=began,
            extra_calls=met + refusals, kills=len(fleet_.kills), may_fail=point == "W9",
        )  # fmt: skip


@pytest.mark.parametrize("point", ["A2", "A3"])
async def test_a_killed_api_loses_no_accepted_job(point: str, fresh_stack: FreshStack) -> None:
    rng = size.dice(f"async {point}")
    began = time.monotonic()
    done = Submissions()
    broker = await fresh_stack(apis=1, workers=1, settings=SHORT)
    kills = 8 if size.is_full() else 3
    plan = iter([f"{point}@{rng.randint(3, 15)}" for _ in range(kills)])

    async def start(armed: str) -> Process:
        return await broker.start_api(faultpoints=armed)

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        killing = group.create_task(keep_running(start, broker.forget, plan))
        await submit_all(
            broker, session, scripts(f"async-{point}", rng, MANNER), done,
            submitters=16, jobs=jobs(), until=killing.done,
        )  # fmt: skip
    await judge(broker, done, f"async, api killed at {point}", began=began, extra_calls=0, kills=kills)


@pytest.mark.parametrize("point", ["S1", "S3"])
async def test_a_killed_scheduler_loses_no_accepted_job(point: str, fresh_stack: FreshStack) -> None:
    rng = size.dice(f"async {point}")
    began = time.monotonic()
    done = Submissions()
    broker = await fresh_stack(apis=1, workers=1, schedulers=0, settings=SHORT)
    kills = 8 if size.is_full() else 3
    plan = iter([f"{point}@{rng.randint(2, 8)}" for _ in range(kills)])
    manner = Manner(streams=0.0, refusals=int(point == "S1"))

    async def start(armed: str) -> Process:
        return await broker.start_scheduler(faultpoints=armed)

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        killing = group.create_task(keep_running(start, broker.forget, plan))
        await submit_all(
            broker, session, scripts(f"async-{point}", rng, manner), done,
            submitters=16, jobs=jobs(), until=killing.done,
        )  # fmt: skip
    refusals = len(done.all) if point == "S1" else 0
    await judge(
        broker, done, f"async, scheduler killed at {point}", began=began,
        extra_calls=refusals, may_fail=point == "S1", kills=kills,
    )  # fmt: skip


async def test_a_flushed_queue_loses_no_accepted_job(fresh_stack: FreshStack) -> None:
    """And a scheduler that dies while it queues them again."""
    rng = size.dice("async flush")
    began = time.monotonic()
    done = Submissions()
    broker = await fresh_stack(apis=1, workers=2, schedulers=0, settings=SHORT)
    open_at_flushes = 0
    flushes = 4 if size.is_full() else 2

    async def flush() -> None:
        nonlocal open_at_flushes
        scheduler = await broker.start_scheduler(faultpoints=f"S2@{rng.randint(1, 5)}")
        for turn in range(flushes):
            await eventually(lambda n=turn: len(done.accepted) > (n + 1) * jobs() // (flushes + 2), "load")  # type: ignore[misc]  # mypy types no lambda with a default
            open_at_flushes += sum(call.is_open for call in broker.calls())
            async with redis_of(broker) as redis:
                await redis.flushall()
        await eventually(lambda: not scheduler.is_running, "a scheduler killed at S2")
        broker.forget(scheduler)
        await broker.start_scheduler()

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        flushing = group.create_task(flush())
        await submit_all(
            broker, session, scripts("async-flush", rng, MANNER), done,
            submitters=16, jobs=jobs(), until=flushing.done,
        )  # fmt: skip
    # What had ended and was not kept yet runs again, too.
    await judge(
        broker, done, "async, queue flushed", began=began, extra_calls=len(done.all),
        flushes=flushes, open_at_flushes=open_at_flushes,
    )  # fmt: skip


async def test_a_queue_that_comes_back_empty_loses_no_accepted_job(fresh_stack: FreshStack) -> None:
    rng = size.dice("async redis killed")
    began = time.monotonic()
    done = Submissions()
    redis = RedisServer(appendonly=False)
    broker = await fresh_stack(apis=1, workers=2, redis=redis, settings=SHORT)

    async def kill() -> None:
        for turn in (1, 2):
            await eventually(lambda n=turn: len(done.accepted) > n * jobs() // 4, "load")  # type: ignore[misc]  # mypy types no lambda with a default
            await asyncio.to_thread(redis.kill9)
            await asyncio.to_thread(redis.start)

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        killing = group.create_task(kill())
        await submit_all(
            broker, session, scripts("async-empty", rng, MANNER), done,
            submitters=16, jobs=jobs(), until=killing.done,
        )  # fmt: skip
    await judge(broker, done, "async, redis back empty", began=began, extra_calls=len(done.all), kills=2)


async def test_a_replica_that_lagged_behind_loses_no_accepted_job(fresh_stack: FreshStack) -> None:
    rng = size.dice("async replica behind")
    began = time.monotonic()
    done = Submissions()
    cluster = RedisCluster(replicas=1)
    broker = await fresh_stack(apis=1, workers=2, redis=cluster, settings=SHORT)
    master = cluster.owner(keyspace.usage(0))

    async def fall_behind() -> None:
        await eventually(lambda: len(done.accepted) > jobs() // 4, "load")
        cluster.stop_replicating(master)
        await eventually(lambda: len(done.accepted) > jobs() // 2, "load that is not replicated")
        await asyncio.to_thread(master.kill9)

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        failing = group.create_task(fall_behind())
        await submit_all(
            broker, session, scripts("async-behind", rng, MANNER), done,
            submitters=16, jobs=jobs(), until=failing.done,
        )  # fmt: skip
        async with session_of(broker.api_key) as reader:
            await read_results(broker, reader, done)
            differing = await changed(broker, reader, done)
    calls = calls_of(broker, "async-behind")
    size.report(
        "async, replica behind promoted", accepted=len(done.accepted), changed=len(differing),
        extra_calls=sum(count - 1 for count in calls.values() if count > 1),
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
    assert differing == []
    assert broken_promises(done, calls, extra_calls=len(done.all)) == []
