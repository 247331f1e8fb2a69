"""Workers that were frozen between reading an entry and beginning its job."""

from __future__ import annotations

from tests.integration.queue.support import Queue, a_job


async def test_a_zombie_began_a_job_that_another_worker_had_reclaimed(queue: Queue) -> None:
    zombie, healthy = queue.consumer("zombie"), queue.consumer("healthy")
    job = a_job(stream=True)
    await queue.enqueue(job)
    (delivery,) = await queue.read(zombie)
    await queue.make_idle(job, zombie)
    (reclaimed,) = await healthy.reclaim(1)
    lease = await healthy.begin(reclaimed)
    assert lease is not None
    await healthy.append(lease, 1, [b"{}"])

    # It took the stream for one that its reader had lost, and ended it under the healthy worker.
    assert await zombie.begin(delivery) is None

    assert await queue.state(job) == "running"
    await queue.finish(healthy, lease)
    assert await queue.state(job) == "succeeded"


async def test_a_zombie_does_not_begin_a_job_that_was_reclaimed_and_not_begun(queue: Queue) -> None:
    zombie, healthy = queue.consumer("zombie"), queue.consumer("healthy")
    job = a_job()
    await queue.enqueue(job)
    (delivery,) = await queue.read(zombie)
    await queue.make_idle(job, zombie)
    (reclaimed,) = await healthy.reclaim(1)

    assert await zombie.begin(delivery) is None

    lease = await healthy.begin(reclaimed)
    assert lease is not None
    assert lease.deliveries == 1


async def test_a_job_begun_late_was_reclaimed_from_the_worker_that_had_just_begun_it(queue: Queue) -> None:
    late, healthy = queue.consumer("late"), queue.consumer("healthy")
    job = a_job()
    await queue.enqueue(job)
    (delivery,) = await queue.read(late)
    await queue.make_idle(job, late)

    lease = await late.begin(delivery)

    assert lease is not None
    assert await healthy.reclaim(1) == []
    await queue.finish(late, lease)
