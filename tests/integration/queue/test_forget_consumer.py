"""Names of workers leave the groups only when nothing hangs on them."""

from __future__ import annotations

from shared import keyspace
from shared.domain.job import Lane
from shared.queue.redis_link import RedisLink
from tests.integration.queue.support import PROVIDER, Queue, a_job


async def names(link: RedisLink, lane: str) -> set[str]:
    return {row[1].decode() for row in await link.execute("XINFO", "CONSUMERS", lane, keyspace.GROUP)}


async def test_a_consumer_that_had_just_read_was_removed_with_what_it_held(queue: Queue) -> None:
    worker = queue.consumer("worker")
    for _ in range(50):  # the script looked at the idle time, which is 0 only within the same ms
        job = a_job()
        await queue.enqueue(job)
        (delivery,) = await queue.read(worker)

        await worker.forget()

        assert list(await queue.pending(job)) == [delivery.entry.decode()]
        lease = await worker.begin(delivery)
        assert lease is not None
        await queue.finish(worker, lease)


async def test_a_consumer_that_holds_nothing_goes_however_long_it_has_been_idle(
    queue: Queue, link: RedisLink
) -> None:
    worker, job = queue.consumer("worker"), a_job()
    await queue.enqueue(job)
    await queue.finish(worker, await queue.lease(worker))
    before = await names(link, queue.lane_key(job))

    await worker.forget()

    assert "worker" in before
    assert await names(link, queue.lane_key(job)) == set()


async def test_forgetting_where_no_group_is_left_goes_on_with_the_other_lanes(
    queue: Queue, link: RedisLink
) -> None:
    worker, job = queue.consumer("worker"), a_job(lane=Lane.BATCH)
    await queue.enqueue(job)
    await queue.finish(worker, await queue.lease(worker))
    await link.execute("DEL", keyspace.lane(queue.shard(job), PROVIDER, Lane.INTERACTIVE))

    await worker.forget()

    assert await names(link, queue.lane_key(job)) == set()
