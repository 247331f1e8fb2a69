"""A worker on a cluster reads every shard, takes no more than it can run, and strands nothing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared import keyspace
from shared.domain.job import Job, JobState, Lane
from shared.errors import QueueUnavailable
from shared.ids import new_job_id
from shared.providers import openai, vllm
from shared.settings import QueueSettings
from tests.fakes.eventually import eventually
from tests.fakes.redis_cluster import RedisCluster
from tests.integration.queue.support import PROVIDER, Queue, a_job, open_link
from tests.integration.workers.raw_provider import answer, sends, sends_then_hangs, serving
from tests.integration.workers.support import a_worker
from tests.integration.workers.test_stream_worker import QUICK, starting, until_over

# arq 0.28 closes its pool by a name that redis-py 5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

SHARDS = 16
SHARDED = QUICK.model_copy(update={"shards": SHARDS})
BOTH = {profile.id: profile for profile in (openai.PROFILE, vllm.PROFILE)}
FEW, MANY = 4, 40
"""Slots: too few for a blocking read at each shard, and enough."""


@asynccontextmanager
async def queue_of(cluster: RedisCluster, settings: QueueSettings = SHARDED) -> AsyncIterator[Queue]:
    async with open_link(cluster.url) as link:
        queue = Queue(link, settings)
        await queue.consumer("nobody").create_groups()
        yield queue


@pytest.fixture
async def queue(redis_cluster: RedisCluster) -> AsyncIterator[Queue]:
    async with queue_of(redis_cluster) as queue:
        yield queue


def a_job_in(shard: int, **particulars: Any) -> Job:
    while True:
        job_id = new_job_id()
        if keyspace.shard_of(job_id, SHARDS) == shard:
            return a_job(job_id=job_id, **particulars)


async def held(queue: Queue, *, providers: tuple[str, ...] = (PROVIDER,)) -> dict[str, tuple[str, int]]:
    """Entries that some worker holds: its name, and for how many ms the lease was not renewed."""
    found: dict[str, tuple[str, int]] = {}
    for shard in range(SHARDS):
        for provider in providers:
            for lane in Lane:
                job = a_job_in(shard, lane=lane, provider=provider)
                found |= {f"{shard} {lane} {entry}": at for entry, at in (await queue.pending(job)).items()}
    return found


@pytest.mark.parametrize("slots", [FEW, MANY])
@pytest.mark.parametrize("at_once", [False, True], ids=["drained", "at once"])
async def test_forty_workers_come_and_go_and_strand_nothing(
    queue: Queue, redis_cluster: RedisCluster, at_once: bool, slots: int
) -> None:
    rng = random.Random(5)
    jobs: list[Job] = []
    hangs, answers = sends_then_hangs(), sends(answer(), close=False)

    async def behave(exchange: Any) -> None:
        # When they are told to stop at once, some are in the middle of a call.
        await (hangs if at_once and rng.random() < 0.3 else answers)(exchange)

    async def one_life(name: str) -> None:
        running = start(name, slots=slots)
        batch = [a_job(lane=rng.choice(list(Lane))) for _ in range(5)]
        jobs.extend(batch)
        await queue.enqueue(*batch)
        for _ in range(rng.randrange(60)):
            await queue.link.execute("PING")
        if at_once:
            running.second_signal()
        else:
            running.first_signal()
        await running.ended()

    async with (
        serving(behave) as provider,
        a_worker(queue, provider.base_url, settings=SHARDED) as worker,
        starting(worker, redis_cluster.url) as start,
    ):
        for turn in range(5):
            await asyncio.gather(*(one_life(f"{turn}-{i}") for i in range(8)))
            # Handed back, an entry stays with its last worker and looks idle beyond any lease.
            lease_ms = SHARDED.lease_idle_seconds * 1000
            assert [entry for entry, (_, idle) in (await held(queue)).items() if idle < lease_ms] == []
        at_once = False
        start("last", slots=50)
        await until_over(queue, jobs)

    assert len(await queue.usage()) == len(jobs) == 200
    assert {await queue.state(job) for job in jobs} == {JobState.SUCCEEDED}
    assert await held(queue) == {}


@pytest.mark.parametrize("slots", [1, 5, 20])
async def test_a_worker_holds_no_more_than_it_can_run(
    queue: Queue, redis_cluster: RedisCluster, slots: int
) -> None:
    jobs = [a_job(provider=name, lane=lane) for name in BOTH for lane in Lane for _ in range(10)]
    await queue.enqueue(*jobs)
    async with (
        serving(sends_then_hangs()) as provider,
        a_worker(queue, provider.base_url, settings=SHARDED, profiles=BOTH) as worker,
        starting(worker, redis_cluster.url) as start,
    ):
        start("greedy", slots=slots)
        await provider.exchange(slots - 1)

        for _ in range(3):
            assert len(await held(queue, providers=tuple(BOTH))) == slots


@pytest.mark.parametrize("slots", [1, 7, 20])
async def test_a_lower_lane_gets_no_slot_while_a_higher_one_waits_at_another_shard(
    queue: Queue, redis_cluster: RedisCluster, slots: int
) -> None:
    jobs = [a_job(lane=lane) for lane in reversed(Lane) for _ in range(2 * slots)]
    await queue.enqueue(*jobs)
    async with (
        serving(sends_then_hangs()) as provider,
        a_worker(queue, provider.base_url, settings=SHARDED) as worker,
        starting(worker, redis_cluster.url) as start,
    ):
        start("ordered", slots=slots)
        for at in range(slots):
            await (await provider.exchange(at)).requested.wait()
        lane_of = {str(job.id): job.lane for job in jobs}
        served = [lane_of[exchange.headers["x-headrace-job-id"]] for exchange in provider.exchanges]

    assert served == [Lane.INTERACTIVE] * slots


@pytest.mark.parametrize("slots", [FEW, MANY])
async def test_an_idle_worker_hears_at_once_of_a_job_in_any_shard(
    queue: Queue, redis_cluster: RedisCluster, slots: int
) -> None:
    patient = SHARDED.model_copy(update={"block_seconds": 3.0})
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=patient) as worker,
        starting(worker, redis_cluster.url) as start,
    ):
        start("idle", slots=slots)
        await queue.enqueue(first := a_job())
        await until_over(queue, [first])
        took: list[float] = []
        for shard in (*range(SHARDS), *range(SHARDS)):
            began = time.monotonic()
            await queue.enqueue(job := a_job_in(shard, lane=random.choice(list(Lane))))
            await until_over(queue, [job])
            took.append(time.monotonic() - began)

    assert max(took) < 1.0
    assert sorted(took)[SHARDS] < 0.1


async def test_a_worker_takes_over_what_a_dead_one_left_in_every_shard(
    queue: Queue, redis_cluster: RedisCluster
) -> None:
    jobs = [a_job_in(shard) for shard in range(SHARDS) for _ in range(2)]
    await queue.enqueue(*jobs)
    dead = queue.consumer("dead")
    for _ in jobs:
        lease = await queue.lease(dead)
        await queue.make_idle(lease.job, dead)
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=SHARDED) as worker,
        starting(worker, redis_cluster.url) as start,
    ):
        start("heir", slots=FEW)
        await until_over(queue, jobs)

    assert len(await queue.usage()) == len(jobs)


async def test_a_worker_goes_on_after_its_cluster_forgot_everything(
    queue: Queue, redis_cluster: RedisCluster
) -> None:
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=SHARDED) as worker,
        starting(worker, redis_cluster.url) as start,
    ):
        start("survivor", slots=MANY)
        await queue.enqueue(first := a_job())
        await until_over(queue, [first])
        redis_cluster.flush()

        await queue.enqueue(*(others := [a_job_in(shard) for shard in range(SHARDS)]))
        await until_over(queue, others)


async def test_a_node_that_is_away_costs_its_own_shards_and_those_only_for_a_while() -> None:
    cluster = RedisCluster(replicas=1, options=("--cluster-require-full-coverage", "no"))
    cluster.start()
    try:
        lost = cluster.owner(keyspace.usage(3))
        theirs = [shard for shard in range(SHARDS) if cluster.owner(keyspace.usage(shard)) is lost]
        others = [shard for shard in range(SHARDS) if shard not in theirs]
        replica = cluster.replica_of(lost)
        async with (
            queue_of(cluster) as queue,
            serving(sends(answer(), close=False)) as provider,
            a_worker(queue, provider.base_url, settings=SHARDED) as worker,
            starting(worker, cluster.url) as start,
        ):
            start("survivor", slots=MANY)
            await queue.enqueue(*(before := [a_job_in(shard) for shard in range(SHARDS)]))
            await until_over(queue, before)

            replica.sigstop()  # or it would take over meanwhile
            lost.kill9()
            for _ in range(3):
                await queue.enqueue(*(meanwhile := [a_job_in(shard) for shard in others]))
                async with asyncio.timeout(5):
                    await until_over(queue, meanwhile)
            replica.sigcont()
            await eventually(lambda: replica in cluster.masters, "the replica to take over")
            await asyncio.to_thread(cluster.wait_whole)

            after = [a_job_in(shard) for shard in theirs]
            await eventually(lambda: _is_taken(queue, after), "the new owner's news at the producer")
            await until_over(queue, after)
    finally:
        cluster.stop(forget=True)


async def _is_taken(queue: Queue, jobs: list[Job]) -> bool:
    """Who asks in the moment of a takeover is told to come back; an id is accepted once."""
    try:
        await queue.enqueue(*jobs)
    except QueueUnavailable:
        return False
    return True
