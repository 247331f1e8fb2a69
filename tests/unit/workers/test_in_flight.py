"""Which task runs which job, and who may stop it."""

from __future__ import annotations

import asyncio

import pytest

from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.ids import AccountId, ApiKeyId, JobId, RequestId, new_job_id
from shared.queue.consumer import Delivery, Lease
from workers.in_flight import InFlight, StopReason


def a_lease(*, job_id: JobId | None = None, fence: int = 1) -> Lease:
    job = Job(
        id=job_id or new_job_id(),
        kind=JobKind.CHAT,
        lane=Lane.INTERACTIVE,
        surface=Surface.OPENAI,
        account=AccountId("acme"),
        api_key=ApiKeyId("key"),
        request_id=RequestId("req_1"),
        plan=(Target("openai", "m"),),
        stream=False,
        include_usage=False,
        budget_ms=1,
        body=b"",
    )
    delivery = Delivery(job.id, b"1-0", 0, "openai", Lane.INTERACTIVE)
    return Lease(delivery, fence, job, 0, 1, 1, 0, 0.0)


async def run(in_flight: InFlight, lease: Lease, started: asyncio.Event) -> StopReason | None:
    with in_flight.track(lease) as flight:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return flight.stop_reason
    return None


async def flying(in_flight: InFlight, lease: Lease) -> asyncio.Task[StopReason | None]:
    started = asyncio.Event()
    task = asyncio.create_task(run(in_flight, lease, started))
    await started.wait()
    return task


async def test_a_job_is_stopped_for_the_first_reason_given() -> None:
    in_flight, lease = InFlight(), a_lease()
    task = await flying(in_flight, lease)

    in_flight.stop(lease.job.id, StopReason.CANCELLED)
    in_flight.stop(lease.job.id, StopReason.LOST)

    assert await task is StopReason.CANCELLED
    assert len(in_flight) == 0


async def test_an_older_fence_stops_nobody() -> None:
    in_flight, lease = InFlight(), a_lease(fence=2)
    task = await flying(in_flight, lease)

    in_flight.stop(lease.job.id, StopReason.LOST, fence=1)
    assert not task.cancelling()
    in_flight.stop(lease.job.id, StopReason.LOST, fence=2)

    assert await task is StopReason.LOST


async def test_a_job_that_came_back_to_its_own_worker_stops_its_first_run_and_stays_tracked() -> None:
    in_flight, first = InFlight(), a_lease(fence=1)
    second = a_lease(job_id=first.job.id, fence=2)
    old = await flying(in_flight, first)
    new = await flying(in_flight, second)

    assert await old is StopReason.LOST

    assert in_flight.leases() == [second]
    new.cancel()
    assert await new is None


async def test_a_late_start_under_an_older_fence_stops_no_newer_run() -> None:
    in_flight, second = InFlight(), a_lease(fence=2)
    new = await flying(in_flight, second)

    old = await flying(in_flight, a_lease(job_id=second.job.id, fence=1))

    assert not new.cancelling()
    assert len(in_flight.leases()) == 2
    in_flight.stop(second.job.id, StopReason.CANCELLED)
    assert [await old, await new] == [StopReason.CANCELLED] * 2


async def test_a_lost_lease_stops_its_own_run_only() -> None:
    in_flight, second = InFlight(), a_lease(fence=2)
    new = await flying(in_flight, second)
    old = await flying(in_flight, a_lease(job_id=second.job.id, fence=1))

    in_flight.stop(second.job.id, StopReason.LOST, fence=1)

    assert await old is StopReason.LOST
    assert not new.cancelling()
    in_flight.stop(second.job.id, StopReason.CANCELLED)
    assert await new is StopReason.CANCELLED


async def test_an_unknown_job_is_nobodys_business() -> None:
    InFlight().stop(new_job_id(), StopReason.CANCELLED)


def test_tracking_outside_a_task_is_a_mistake() -> None:
    with pytest.raises(RuntimeError), InFlight().track(a_lease()):
        pass
