"""How a job stands, from its first moment to its end."""

from __future__ import annotations

import pytest

from shared.domain.job import JobState, Lane
from shared.ids import AccountId
from shared.queue.consumer import Consumer, PutAside
from shared.queue.job_status import JobStatuses
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings
from tests.integration.queue.support import ACME, PROVIDER, Queue, a_job

WINDOW = 2


@pytest.fixture
async def queue(link: RedisLink) -> Queue:
    return Queue(link, QueueSettings(ready_window=WINDOW))


@pytest.fixture
def statuses(queue: Queue) -> JobStatuses:
    return JobStatuses(queue.link, queue.settings)


@pytest.fixture
async def worker(queue: Queue) -> Consumer:
    consumer = Consumer(queue.link, queue.settings, "a-worker", [PROVIDER])
    await consumer.create_groups()
    return consumer


async def test_places_count_down_from_the_backlog_to_the_worker(
    queue: Queue, statuses: JobStatuses, worker: Consumer
) -> None:
    first = a_job()
    jobs = [first, *(queue.a_job_beside(first) for _ in range(4))]
    await queue.enqueue(*jobs)

    async def places() -> list[int | None]:
        found = [await statuses.of(job.id, ACME) for job in jobs]
        return [status.position for status in found if status is not None]

    assert await places() == [1, 2, 3, 4, 5]
    lease = await queue.lease(worker)
    assert await places() == [None, 1, 2, 3, 4]
    running = await statuses.of(first.id, ACME)
    assert running is not None
    assert (running.state, running.result) == (JobState.RUNNING, None)
    await queue.finish(worker, lease)
    ended = await statuses.of(first.id, ACME)
    assert ended is not None
    assert ended.state is JobState.SUCCEEDED
    assert ended.finished_at is not None
    assert ended.created_at <= ended.finished_at < ended.deadline_at


async def test_a_job_that_waits_for_its_provider_has_no_place(
    queue: Queue, statuses: JobStatuses, worker: Consumer
) -> None:
    job = a_job()
    await queue.enqueue(job)
    assert await worker.retry_later(await queue.lease(worker), delay_seconds=30) is PutAside.DONE

    status = await statuses.of(job.id, ACME)

    assert status is not None
    assert (status.state, status.position, status.attempts) == (JobState.QUEUED, None, 1)


async def test_a_job_of_another_account_does_not_exist(queue: Queue, statuses: JobStatuses) -> None:
    job = a_job(lane=Lane.BATCH)
    await queue.enqueue(job)

    assert await statuses.of(job.id, AccountId("acc_other")) is None
    assert await statuses.of(a_job().id, ACME) is None
