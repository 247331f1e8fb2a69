"""Retries that are due: who moves them, and who moves them when nobody says so."""

from __future__ import annotations

import pytest
from redis.exceptions import RedisError

from shared import keyspace
from shared.queue.consumer import Consumer, PutAside
from shared.queue.delays import Delays
from tests.integration.queue.support import PROVIDER, Queue, a_job

OTHER = "lab"


@pytest.fixture
def delays(queue: Queue) -> Delays:
    return Delays(queue.link, queue.settings)


async def a_due_retry(queue: Queue, provider: str) -> str:
    """The lane that it is missing from."""
    job = a_job(provider=provider)
    consumer = Consumer(queue.link, queue.settings, "failing", [provider])
    await consumer.create_groups()
    await queue.enqueue(job)
    lease = await queue.lease(consumer)
    assert await consumer.retry_later(lease, delay_seconds=0) is PutAside.DONE
    lane = queue.lane_key(job)
    assert await queue.link.execute("XLEN", lane) == 0
    return lane


async def test_retries_of_a_provider_that_the_scheduler_does_not_know_are_not_stranded(
    queue: Queue, delays: Delays
) -> None:
    await delays.promote_as_scheduler([PROVIDER])
    lane = await a_due_retry(queue, OTHER)

    assert await delays.promote_unscheduled([PROVIDER, OTHER]) == 1

    assert await queue.link.execute("XLEN", lane) == 1


async def test_workers_leave_to_the_scheduler_what_it_promotes(queue: Queue, delays: Delays) -> None:
    await delays.promote_as_scheduler([PROVIDER, OTHER])
    await a_due_retry(queue, OTHER)

    assert await delays.promote_unscheduled([OTHER]) == 0
    assert await delays.promote_as_scheduler([PROVIDER, OTHER]) == 1


async def test_a_scheduler_that_cannot_promote_does_not_keep_workers_from_it(
    queue: Queue, delays: Delays
) -> None:
    broken = "broken"
    await queue.link.execute("SET", keyspace.delayed(0, broken), "not a sorted set")
    lane = await a_due_retry(queue, OTHER)

    with pytest.raises(RedisError):
        await delays.promote_as_scheduler([broken, OTHER])

    assert await queue.link.execute("GET", keyspace.SCHEDULER_ALIVE) is None
    # What it could promote, it did.
    assert await queue.link.execute("XLEN", lane) == 1
    # And so do workers, who are not kept from it.
    await a_due_retry(queue, "third")
    assert await delays.promote_unscheduled(["third"]) == 1


async def test_while_no_scheduler_lives_workers_promote_what_they_serve(queue: Queue, delays: Delays) -> None:
    lane = await a_due_retry(queue, OTHER)

    assert await delays.promote_unscheduled([OTHER]) == 1

    assert await queue.link.execute("XLEN", lane) == 1
