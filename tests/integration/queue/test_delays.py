"""Retries that are due: who moves them, and who moves them when nobody says so."""

from __future__ import annotations

import pytest
from redis.exceptions import RedisError

from shared import keyspace
from shared.domain.job import Lane
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


@pytest.mark.parametrize(
    ("lane", "patient", "becomes"),
    [
        (Lane.INTERACTIVE, False, PutAside.WAITED_ENOUGH),
        (Lane.INTERACTIVE, True, PutAside.DONE),
        (Lane.BATCH, False, PutAside.DONE),
    ],
)
async def test_a_job_waits_so_long_for_its_provider_and_a_batch_job_until_its_deadline(
    queue: Queue, lane: Lane, patient: bool, becomes: PutAside
) -> None:
    consumer = Consumer(queue.link, queue.settings, "refused", [PROVIDER])
    await consumer.create_groups()
    await queue.enqueue(a_job(lane=lane, budget_ms=600_000))
    lease = await queue.lease(consumer)

    longer = queue.settings.max_wait_seconds + 1
    assert await consumer.defer(lease, delay_seconds=longer, patient=patient) is becomes
    if becomes is PutAside.DONE:
        assert await consumer.defer(lease, delay_seconds=longer, patient=patient) is PutAside.DONE  # a replay
