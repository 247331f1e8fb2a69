"""What a worker takes first, and what it must not take yet."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.domain.job import JobState, Lane
from shared.providers import openai, vllm
from shared.queue.redis_link import ServerLink
from tests.fakes.eventually import eventually
from tests.integration.queue.support import Queue, a_job
from tests.integration.workers.raw_provider import RawProvider, answer, sends, sends_then_hangs, serving
from tests.integration.workers.support import a_worker
from tests.integration.workers.test_stream_worker import QUICK, starting, until_over

# arq 0.28 closes its pool by a name that redis-py 5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

BOTH = {profile.id: profile for profile in (openai.PROFILE, vllm.PROFILE)}


def job_ids(provider: RawProvider) -> list[str]:
    return [exchange.headers["x-headrace-job-id"] for exchange in provider.exchanges]


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 6, 7, 12])
async def test_a_lower_lane_gets_no_slot_while_a_higher_one_waits_at_another_provider(
    queue: Queue, redis_url: str, slots: int
) -> None:
    jobs = [
        a_job(provider=name, lane=lane)
        for lane in (Lane.BATCH, Lane.STANDARD, Lane.INTERACTIVE)
        for name in BOTH
        for _ in range(6)
    ]
    await queue.enqueue(*jobs)
    async with (
        serving(sends_then_hangs()) as provider,
        a_worker(queue, provider.base_url, settings=QUICK, profiles=BOTH) as worker,
        starting(worker, redis_url) as start,
    ):
        start("ordered", slots=slots)
        for at in range(slots):
            await (await provider.exchange(at)).requested.wait()
        lane_of = {str(job.id): job.lane for job in jobs}
        served = [lane_of[job_id] for job_id in job_ids(provider)]

    assert served == [Lane.INTERACTIVE] * slots


async def test_providers_of_one_lane_take_turns(queue: Queue, redis_url: str) -> None:
    jobs = [a_job(provider=name) for name in BOTH for _ in range(4)]
    await queue.enqueue(*jobs)
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=QUICK, profiles=BOTH) as worker,
        starting(worker, redis_url) as start,
    ):
        start("fair", slots=1)
        await until_over(queue, jobs)

    order = [settlement.provider for _, settlement in await queue.usage()]
    assert len(order) == 8
    assert all(set(order[at : at + 2]) == set(BOTH) for at in (0, 2, 4, 6))


async def test_nothing_is_reclaimed_before_others_could_renew_on_the_link_that_was_lost(
    queue: Queue, redis_url: str
) -> None:
    slow_sweeps = QUICK.model_copy(update={"sweep_seconds": 0.2})
    await queue.enqueue(job := a_job())
    frozen = queue.consumer("frozen")
    await queue.lease(frozen)
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=slow_sweeps) as worker,
        starting(worker, redis_url) as start,
    ):
        running = start("sweeper")
        await queue.enqueue(first := a_job())
        await until_over(queue, [first])
        # Between two sweeps: the next is at least 0.1 s away.
        last = running.worker._next_sweep
        await eventually(lambda: running.worker._next_sweep != last, "a sweep", within=5, every=0.005)
        await asyncio.sleep(0.03)

        assert isinstance(running.link, ServerLink)
        running.link._drop(RedisConnectionError("lost"))
        lost_at = time.monotonic()
        await queue.make_idle(job, frozen)
        while await queue.state(job) != JobState.SUCCEEDED:
            pass

    assert time.monotonic() - lost_at >= 1.5 * slow_sweeps.heartbeat_seconds


async def test_batch_work_leaves_slots_for_the_others(queue: Queue, redis_url: str) -> None:
    batch = [a_job(lane=Lane.BATCH) for _ in range(8)]
    await queue.enqueue(*batch)
    async with (
        serving(sends_then_hangs()) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        start("reserved", slots=4, batch_slots=3)
        for at in range(3):
            await (await provider.exchange(at)).requested.wait()
        await queue.enqueue(urgent := a_job())
        await (await provider.exchange(3)).requested.wait()
        served = job_ids(provider)

    assert served[3] == urgent.id
    assert set(served[:3]) <= {job.id for job in batch}


async def test_batch_work_goes_on_as_its_slots_come_free(queue: Queue, redis_url: str) -> None:
    batch = [a_job(lane=Lane.BATCH) for _ in range(12)]
    await queue.enqueue(*batch)
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        start("narrow", slots=4, batch_slots=1)
        await until_over(queue, batch)

    assert len(provider.exchanges) == 12


async def test_a_lane_passed_over_for_long_gets_a_few_slots(queue: Queue, redis_url: str) -> None:
    """However much waits in a higher one."""
    urgent = [a_job() for _ in range(400)]
    patient = a_job(lane=Lane.STANDARD)
    ageing = QUICK.model_copy(update={"lane_ageing_seconds": 0.05})
    await queue.enqueue(*urgent, patient)
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=ageing) as worker,
        starting(worker, redis_url) as start,
    ):
        start("ageing", slots=1)
        await until_over(queue, [patient])
        served_before = len(provider.exchanges)
        await until_over(queue, urgent)

    assert served_before < 400
    assert len(provider.exchanges) == 401
