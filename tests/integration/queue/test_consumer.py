"""What workers may count on: who gets a job next, how often, and when nobody does any more."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from shared import keyspace
from shared.domain.job import JobState, Lane, UnknownEnvelope
from shared.domain.usage import Outcome
from shared.errors import QueueFull
from shared.ids import JobId
from shared.queue import depth
from shared.queue.consumer import Consumer, LeaseLost, PutAside
from shared.queue.delays import Delays
from shared.queue.frames import Result
from shared.queue.redis_link import RedisArg, RedisLink
from shared.settings import QueueSettings
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import PROVIDER, Queue, a_job, open_link


@pytest.fixture
def queue(queue: Queue) -> Queue:
    """With room in each shard for all that a test queues, wherever the ids of its jobs fall."""
    return Queue(queue.link, queue.settings.model_copy(update={"ready_window": 10_000}))


async def test_reclaim_finds_the_one_silent_job_behind_hundreds_of_fresh_ones(link: RedisLink) -> None:
    queue = Queue(link, QueueSettings(ready_window=1_000))
    await queue.consumer("nobody").create_groups()
    dead, busy, sweeper = (queue.consumer(name) for name in ("dead", "busy", "sweeper"))
    jobs = [a_job() for _ in range(900)]
    await queue.enqueue(*jobs)
    await queue.read(busy, count=899)
    await queue.read(dead)
    await queue.make_idle(jobs[-1], dead)

    found = await sweeper.reclaim(1)

    assert [delivery.job_id for delivery in found] == [jobs[-1].id]


async def test_reclaim_takes_no_more_than_asked_and_goes_on_where_it_stopped(queue: Queue) -> None:
    dead, sweeper = queue.consumer("dead"), queue.consumer("sweeper")
    jobs = [a_job(lane=lane) for lane in (Lane.INTERACTIVE, Lane.BATCH) for _ in range(5)]
    await queue.enqueue(*jobs)
    await queue.read(dead, count=5)
    for job in jobs:
        await queue.make_idle(job, dead)

    rounds = [[d.job_id for d in await sweeper.reclaim(4)] for _ in range(4)]

    assert [len(found) for found in rounds[:2]] == [4, 4]
    assert sorted(job_id for found in rounds for job_id in found) == sorted(job.id for job in jobs)


async def test_a_job_whose_worker_renews_its_lease_is_not_reclaimed(queue: Queue) -> None:
    holder, sweeper = queue.consumer("holder"), queue.consumer("sweeper")
    await queue.enqueue(job := a_job())
    lease = await queue.lease(holder)
    await queue.make_idle(job, holder)

    stops = await holder.heartbeat([lease])

    assert stops == []
    assert await sweeper.reclaim(1) == []


async def test_a_job_handed_back_is_claimed_at_once_and_not_counted(queue: Queue) -> None:
    stopping, other = queue.consumer("stopping"), queue.consumer("other")
    await queue.enqueue(a_job())
    await stopping.hand_back(await queue.lease(stopping))

    (delivery,) = await other.reclaim(10)
    lease = await other.begin(delivery)

    assert lease is not None
    assert (lease.deliveries, lease.attempts, lease.fence) == (1, 0, 2)


async def test_an_entry_released_unbegun_is_claimed_at_once(queue: Queue) -> None:
    stopping, other = queue.consumer("stopping"), queue.consumer("other")
    await queue.enqueue(job := a_job())
    (delivery,) = await queue.read(stopping)

    await stopping.release(delivery)

    assert [d.job_id for d in await other.reclaim(10)] == [job.id]


async def die_with(queue: Queue, name: str) -> None:
    """One more worker takes the job, begins it and falls silent."""
    worker = queue.consumer(name)
    found = await queue.read(worker) or await worker.reclaim(1)
    lease = await worker.begin(found[0])
    assert lease is not None
    await queue.make_idle(lease.job, worker)


async def test_a_job_that_kills_its_workers_is_dead_lettered_after_max_deliveries(queue: Queue) -> None:
    await queue.enqueue(job := a_job())
    for name in ("first", "second", "third"):
        await die_with(queue, name)
    last = queue.consumer("last")
    (delivery,) = await last.reclaim(1)

    lease = await last.begin(delivery)

    assert lease is None
    (letter,) = await queue.dead(job)
    assert (letter[b"job"], letter[b"reason"]) == (job.id.encode(), b"poison")
    assert (letter[b"deliveries"], letter[b"attempts"]) == (b"3", b"0")
    assert letter[b"header"] == job.header()
    ((job_id, settlement),) = await queue.usage()
    assert (job_id, settlement.outcome, settlement.error) == (job.id, Outcome.DEAD, "poison")
    result = await queue.producer.result(job.id)
    assert isinstance(result, Result)
    assert result.head.outcome is Outcome.DEAD
    assert await queue.entries(job) == []


async def test_a_retried_job_is_not_taken_for_one_that_kills_its_workers(
    queue: Queue, link: RedisLink
) -> None:
    worker, delays = queue.consumer("worker"), Delays(link, queue.settings)
    await queue.enqueue(a_job())

    for attempts in range(10):
        lease = await queue.lease(worker)
        assert (lease.deliveries, lease.attempts) == (1, attempts)
        assert await worker.retry_later(lease, delay_seconds=0) is PutAside.DONE
        assert await delays.promote([PROVIDER]) == 1


async def written_by_a_newer_release(queue: Queue) -> JobId:
    await queue.enqueue(job := a_job())
    header = orjson.dumps({**orjson.loads(job.header()), "v": 99})
    await queue.link.execute("HSET", keyspace.job(queue.shard(job), job.id), "header", header)
    return job.id


async def test_workers_that_cannot_read_a_job_dead_lettered_it(queue: Queue, link: RedisLink) -> None:
    job_id = await written_by_a_newer_release(queue)
    shard = keyspace.shard_of(job_id, queue.settings.shards)
    key = keyspace.job(shard, job_id)
    for i in range(5):
        old = queue.consumer(f"old-{i}")
        found = await queue.read(old) or await old.reclaim(1)
        with pytest.raises(UnknownEnvelope):
            await old.begin(found[0])
        # It waits a whole lease for somebody else, instead of coming back to the same worker at once.
        assert await old.reclaim(1) == []
        await link.execute(
            "XCLAIM", found[0].lane_key, keyspace.GROUP, old.name, 0, found[0].entry, "IDLE", 60_000, "JUSTID"
        )  # fmt: skip

    state, deliveries = await link.execute("HMGET", key, "state", "deliveries")

    assert (state, deliveries) == (b"queued", b"0")
    assert await link.execute("EXISTS", keyspace.dead(shard, PROVIDER)) == 0


async def test_a_stream_that_began_is_not_run_again(queue: Queue) -> None:
    await queue.enqueue(job := a_job(stream=True))
    died, other = queue.consumer("died"), queue.consumer("other")
    lease = await queue.lease(died)
    await died.append(lease, 1, [b"{}"])
    await queue.make_idle(job, died)

    (delivery,) = await other.reclaim(1)

    assert await other.begin(delivery) is None
    assert await queue.state(job) == "failed"
    ((_, settlement),) = await queue.usage()
    assert settlement.error == "stream_interrupted"


async def test_a_frozen_worker_can_neither_answer_nor_stream_nor_give_back(queue: Queue) -> None:
    frozen, other = queue.consumer("frozen"), queue.consumer("other")
    await queue.enqueue(job := a_job())
    late = await queue.lease(frozen)
    await queue.make_idle(job, frozen)
    (delivery,) = await other.reclaim(1)
    assert await other.begin(delivery) is not None

    assert await frozen.heartbeat([late]) == [(late, False)]
    with pytest.raises(LeaseLost):
        await queue.finish(frozen, late)
    with pytest.raises(LeaseLost):
        await frozen.append(late, 1, [b"{}"])
    with pytest.raises(LeaseLost):
        await frozen.retry_later(late, delay_seconds=0)
    with pytest.raises(LeaseLost):
        await frozen.hand_back(late)

    assert await queue.state(job) == "running"
    assert await queue.usage() == []


async def test_a_full_lane_refuses_new_jobs_and_still_knows_old_ones(link: RedisLink) -> None:
    queue = Queue(link, QueueSettings(max_lane_entries=2))
    await queue.enqueue(first := a_job(), a_job())

    with pytest.raises(QueueFull) as refused:
        await queue.enqueue(a_job())

    assert 4 <= (refused.value.retry_after_seconds or 0) <= 5
    assert (await queue.producer.enqueue(first, reply_to="")).attached
    await queue.enqueue(a_job(lane=Lane.BATCH))


async def test_full_memory_refuses_new_jobs_and_lets_running_ones_end(queue: Queue, link: RedisLink) -> None:
    worker = queue.consumer("worker")
    jobs = ended, returned, retried, streamed = [a_job() for _ in range(4)]
    await queue.enqueue(*jobs)
    by_job = {lease.job.id: lease for lease in [await queue.lease(worker) for _ in jobs]}
    leases = [by_job[job.id] for job in jobs]
    await link.execute_everywhere("CONFIG", "SET", "maxmemory", 1)

    with pytest.raises(QueueFull):
        await queue.enqueue(a_job())

    await worker.append(leases[3], 1, [b"{}"])
    await worker.hand_back(leases[1])
    await worker.retry_later(leases[2], delay_seconds=0)
    await Delays(link, queue.settings).promote([PROVIDER])
    for lease in (leases[0], leases[3]):
        await queue.finish(worker, lease)
    states = [await queue.state(job) for job in (ended, streamed, returned, retried)]
    assert states == ["succeeded", "succeeded", "queued", "queued"]
    assert len(await queue.usage()) == 2


async def test_depth_tells_waiting_from_running_by_lane(queue: Queue, link: RedisLink) -> None:
    await queue.enqueue(a_job(), a_job(lane=Lane.BATCH))
    await queue.read(queue.consumer("worker"), lanes=(Lane.BATCH,))

    found = await depth.measure(link, [PROVIDER, "never-used"], shards=queue.settings.shards)

    assert [(row.queued, row.in_flight) for row in found] == [(1, 0), (0, 0), (0, 1), *[(0, 0)] * 3]


async def test_depth_of_a_redis_that_went_away_was_told_as_an_empty_queue(
    private_redis: RedisServer,
) -> None:
    async with open_link(private_redis.url) as link:
        queue = Queue(link, QueueSettings())
        await queue.consumer("worker").create_groups()
        execute_many = link.execute_many
        asked = 0

        async def dying(commands: list[tuple[RedisArg, ...]]) -> list[Any]:
            nonlocal asked
            asked += 1
            if asked == 2:
                private_redis.kill9()
            return await execute_many(commands)

        await queue.enqueue(a_job())
        link.execute_many = dying  # type: ignore[method-assign]  # a stand-in that dies on cue

        with pytest.raises(RedisConnectionError):
            await depth.measure(link, [PROVIDER], shards=1)


async def test_a_hundred_workers_finish_each_job_once(queue: Queue) -> None:
    jobs = [a_job() for _ in range(500)]
    await queue.enqueue(*jobs)

    async def work(consumer: Consumer) -> int:
        done = 0
        while found := await queue.read(consumer, count=2):
            for delivery in found:
                lease = await consumer.begin(delivery)
                assert lease is not None
                await queue.finish(consumer, lease)
                done += 1
        return done

    done = await asyncio.gather(*(work(queue.consumer(f"w{i}")) for i in range(100)))

    assert sum(done) == 500
    assert sorted(job_id for job_id, _ in await queue.usage()) == sorted(job.id for job in jobs)
    assert {await queue.state(job) for job in jobs} == {JobState.SUCCEEDED}


async def test_a_job_joined_by_a_caller_that_wants_it_in_any_case_is_kept(link: RedisLink) -> None:
    queue = Queue(link, QueueSettings())
    await queue.consumer("nobody").create_groups()
    first, twin = a_job(), a_job()
    await queue.producer.enqueue(first, reply_to="", reader="one", twins="d" * 64)

    joined = await queue.producer.enqueue(twin, reply_to="", reader="two", keep=True, twins="d" * 64)
    for reader in ("one", "two"):
        await queue.producer.leave(first, reader)

    assert joined.joined == first.id
    assert await queue.producer.cancel(first, if_unread=True) == "kept"
