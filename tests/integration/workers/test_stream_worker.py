"""Start, stop and trouble: nothing a worker was given is ever out of reach."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.exceptions import RedisError

from shared import keyspace
from shared.domain.job import Job, JobState, Lane
from shared.providers import openai, vllm
from shared.queue.arq_pool import arq_pool
from shared.queue.consumer import Consumer, Delivery
from shared.queue.links import open_link
from shared.settings import QueueSettings
from tests.fakes.eventually import eventually
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import PROVIDER, Queue, a_job
from tests.integration.queue.support import open_link as opened_link
from tests.integration.workers.raw_provider import answer, sends, sends_then_hangs, serving
from tests.integration.workers.support import Worker, a_worker
from tests.unit.observability.log_lines import captured
from workers.run_job import run_job
from workers.sharded_worker import ShardedStreamWorker
from workers.stream_worker import StreamWorker

# arq 0.28 closes its pool by a name that redis-py 5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

QUICK = QueueSettings(block_seconds=0.05, sweep_seconds=0.05, heartbeat_seconds=1, lease_idle_seconds=20)


class Running:
    """A stream worker in its own task, stopped as workers/main.py stops one."""

    def __init__(
        self,
        worker: Worker,
        url: str,
        name: str,
        *,
        slots: int,
        drain_seconds: float,
        batch_slots: int | None = None,
    ) -> None:
        settings = worker.context.settings.queue
        self.link = open_link(url, timeout=5)
        self.read_link = self.link.another(timeout=5 + settings.block_seconds)
        self.consumer = Consumer(self.link, settings, name, worker.consumer.providers)
        self.context = type(worker.context)(
            **{
                field: getattr(worker.context, field)
                for field in worker.context.__dataclass_fields__
                if field not in {"consumer", "in_flight", "one_suspect"}
            },
            consumer=self.consumer,
            in_flight=type(worker.context.in_flight)(),
        )

        async def job(_: dict[str, Any], delivery: Delivery) -> None:
            await run_job(self.context, delivery)

        kind = StreamWorker if self.link.is_one_server else ShardedStreamWorker
        self.worker = kind(
            job,
            consumer=self.consumer,
            read_link=self.read_link,
            queue=settings,
            slots=slots,
            redis_pool=arq_pool(url, timeout=settings.worker_timeout_seconds),
            drain_seconds=drain_seconds,
            batch_slots=batch_slots,
        )
        self.main = asyncio.create_task(self._main(), name=f"worker {name}")

    async def _main(self) -> None:
        with suppress(RedisError):
            try:
                with suppress(asyncio.CancelledError):
                    await self.worker.async_run()
            finally:
                await self.worker.close()

    def first_signal(self) -> None:
        self.worker.handle_sig_wait_for_completion(signal.SIGTERM)

    def second_signal(self) -> None:
        self.worker.handle_sig(signal.SIGTERM)

    async def ended(self) -> None:
        await self.main
        await self.link.close()
        await self.read_link.close()


Start = Callable[..., Running]


@asynccontextmanager
async def starting(worker: Worker, url: str) -> AsyncIterator[Start]:
    """Whatever it started is stopped at once in the end."""
    started: list[Running] = []

    def start(
        name: str, *, slots: int = 4, drain_seconds: float = 5, batch_slots: int | None = None
    ) -> Running:
        started.append(
            Running(worker, url, name, slots=slots, drain_seconds=drain_seconds, batch_slots=batch_slots)
        )
        return started[-1]

    yield start
    for running in started:
        if not running.main.done():
            running.second_signal()
        await running.ended()


async def until_over(queue: Queue, jobs: list[Job]) -> None:
    """Once the last of them has ended; each question is a round trip."""
    for job in jobs:
        while await queue.state(job) not in {JobState.SUCCEEDED, JobState.FAILED}:
            pass


async def held(queue: Queue) -> dict[str, tuple[str, int]]:
    """Entries that some worker holds: its name, and for how many ms the lease was not renewed."""
    found: dict[str, tuple[str, int]] = {}
    for lane in Lane:
        found |= await queue.pending(a_job(lane=lane))
    return found


@pytest.mark.parametrize("at_once", [False, True], ids=["drained", "at once"])
async def test_two_hundred_workers_come_and_go_and_strand_nothing(
    queue: Queue, redis_url: str, at_once: bool
) -> None:
    rng = random.Random(5)
    jobs: list[Job] = []
    hangs = sends_then_hangs()
    answers = sends(answer(), close=False)

    async def behave(exchange: Any) -> None:
        # When they are told to stop at once, some are in the middle of a call.
        await (hangs if at_once and rng.random() < 0.3 else answers)(exchange)

    async def one_life(name: str) -> None:
        running = start(name)
        batch = [a_job(lane=rng.choice(list(Lane))) for _ in range(5)]
        jobs.extend(batch)
        await queue.enqueue(*batch)
        for _ in range(rng.randrange(30)):
            await queue.link.execute("PING")
        if at_once:
            running.second_signal()
        else:
            running.first_signal()
        await running.ended()
        stranded = {
            entry: idle for entry, (consumer, idle) in (await held(queue)).items() if consumer == name
        }
        # Handed back, an entry stays with its last worker and looks idle beyond any lease.
        lease_ms = QUICK.lease_idle_seconds * 1000
        assert all(at_once and idle >= lease_ms for idle in stranded.values()), stranded

    async with (
        serving(behave) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        for turn in range(20):
            await asyncio.gather(*(one_life(f"{turn}-{i}") for i in range(10)))
        at_once = False
        start("last", slots=50)
        await until_over(queue, jobs)

    assert len(await queue.usage()) == len(jobs) == 1_000
    assert {await queue.state(job) for job in jobs} == {JobState.SUCCEEDED}
    assert await held(queue) == {}


async def test_a_second_signal_hands_everything_back_at_once(queue: Queue, redis_url: str) -> None:
    jobs = [a_job() for _ in range(6)]
    await queue.enqueue(*jobs)
    async with (
        serving(sends_then_hangs()) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        running = start("stopping", slots=6, drain_seconds=60)
        await provider.exchange(5)

        running.first_signal()
        running.second_signal()
        async with asyncio.timeout(2):
            await running.ended()

    assert {await queue.state(job) for job in jobs} == {JobState.QUEUED}
    assert {(await queue.fields(job))["deliveries"] for job in jobs} == {"0"}
    assert len(await queue.consumer("other").reclaim(10)) == 6


async def test_a_job_cancelled_in_the_tick_before_the_end_is_handed_back_too(
    queue: Queue, redis_url: str
) -> None:
    async with (
        serving(sends(answer())) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        running = start("stopping")
        running.second_signal()
        await running.main
        await queue.enqueue(a_job())
        (delivery,) = await queue.read(running.consumer)

        running.worker._start(delivery)
        running.second_signal()
        await asyncio.sleep(0)  # the task has ended, what follows from that has not run
        await running.worker.close()

        assert len(await queue.consumer("other").reclaim(10)) == 1


async def test_a_first_signal_lets_running_jobs_end_and_takes_no_more(queue: Queue, redis_url: str) -> None:
    go_on = asyncio.Event()

    async def behave(exchange: Any) -> None:
        await go_on.wait()
        await sends(answer())(exchange)

    running_jobs, waiting = [a_job() for _ in range(3)], a_job()
    await queue.enqueue(*running_jobs)
    async with (
        serving(behave) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        running = start("draining", slots=3)
        await provider.exchange(2)
        running.first_signal()
        await queue.enqueue(waiting)
        go_on.set()
        await running.ended()

    assert {await queue.state(job) for job in running_jobs} == {JobState.SUCCEEDED}
    assert await queue.state(waiting) == JobState.QUEUED
    assert await held(queue) == {}


@pytest.mark.parametrize("slots", [1, 2, 5])
async def test_a_worker_holds_no_more_than_it_can_run(queue: Queue, redis_url: str, slots: int) -> None:
    both = {profile.id: profile for profile in (openai.PROFILE, vllm.PROFILE)}
    jobs = [a_job(provider=name, lane=lane) for name in both for lane in Lane for _ in range(3)]
    await queue.enqueue(*jobs)
    async with (
        serving(sends_then_hangs()) as provider,
        a_worker(queue, provider.base_url, settings=QUICK, profiles=both) as worker,
        starting(worker, redis_url) as start,
    ):
        start("greedy", slots=slots)
        await provider.exchange(slots - 1)

        for _ in range(20):
            taken = 0
            for name in both:
                for lane in Lane:
                    key = keyspace.lane(0, name, lane)
                    taken += (await queue.link.execute("XPENDING", key, keyspace.GROUP))[0]
            assert taken <= slots


async def test_higher_lanes_go_first(queue: Queue, redis_url: str) -> None:
    jobs = [a_job(lane=lane) for lane in reversed(Lane) for _ in range(2)]
    await queue.enqueue(*jobs)
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        start("only", slots=1)
        await until_over(queue, jobs)
        order = [exchange.headers["x-headrace-job-id"] for exchange in provider.exchanges]

    lane_of = {str(job.id): job.lane for job in jobs}
    assert [lane_of[job_id] for job_id in order] == sorted((job.lane for job in jobs), key=list(Lane).index)


async def test_a_worker_lives_through_restarts_of_redis(private_redis: RedisServer) -> None:
    async with opened_link(private_redis.url) as link:
        queue = Queue(link, QUICK)
        await queue.consumer("nobody").create_groups()
        async with (
            serving(sends(answer(), close=False)) as provider,
            a_worker(queue, provider.base_url, settings=QUICK) as worker,
            starting(worker, private_redis.url) as start,
        ):
            running = start("survivor")
            for _ in range(3):
                job = a_job()
                await queue.enqueue(job)
                await until_over(queue, [job])
                private_redis.kill9()
                private_redis.restart()

            await queue.enqueue(last := a_job())
            await until_over(queue, [last])
            assert not running.main.done()


async def test_a_worker_goes_on_after_redis_forgot_everything(queue: Queue, redis_url: str) -> None:
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        start("survivor")
        await queue.enqueue(first := a_job())
        await until_over(queue, [first])
        await queue.link.execute("FLUSHALL")

        await queue.enqueue(second := a_job())
        await until_over(queue, [second])


async def test_a_worker_takes_over_what_a_dead_one_left(queue: Queue, redis_url: str) -> None:
    jobs = [a_job() for _ in range(20)]
    await queue.enqueue(*jobs)
    dead = queue.consumer("dead")
    for job in jobs:
        await queue.lease(dead)
        await queue.make_idle(job, dead)
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, settings=QUICK) as worker,
        starting(worker, redis_url) as start,
    ):
        start("heir", slots=3)
        await until_over(queue, jobs)

    assert len(await queue.usage()) == 20


async def test_after_redis_refused_all_writes_workers_have_time_to_renew_their_leases(
    private_redis: RedisServer,
) -> None:
    patient = QUICK.model_copy(update={"heartbeat_seconds": 10, "lease_idle_seconds": 30})
    async with opened_link(private_redis.url) as link:
        queue = Queue(link, patient)
        await queue.consumer("nobody").create_groups()
        async with (
            serving(sends(answer(), close=False)) as provider,
            a_worker(queue, provider.base_url, settings=patient) as worker,
            starting(worker, private_redis.url) as start,
        ):
            holder = queue.consumer("holder")
            await queue.enqueue(job := a_job())
            lease = await queue.lease(holder)
            start("other")
            await queue.enqueue(first := a_job())
            await until_over(queue, [first])
            with captured() as lines:
                await asyncio.to_thread(private_redis.refuse_writes)
                await eventually(lines.events, "the worker's notice")
            await asyncio.to_thread(private_redis.take_writes)
            await queue.make_idle(job, holder)

            await queue.enqueue(second := a_job())
            await until_over(queue, [second])

            assert await holder.heartbeat([lease]) == []


async def test_a_worker_stopped_while_redis_hangs_does_not_hang_with_it(
    private_redis: RedisServer,
) -> None:
    quick = QUICK.model_copy(update={"worker_timeout_seconds": 0.3})
    async with opened_link(private_redis.url, timeout=0.3) as link:
        queue = Queue(link, quick)
        await queue.consumer("nobody").create_groups()
        async with (
            serving(sends(answer(), close=False)) as provider,
            a_worker(queue, provider.base_url, settings=quick) as worker,
            starting(worker, private_redis.url) as start,
        ):
            running = start("stuck")
            await queue.enqueue(job := a_job(provider=PROVIDER))
            await until_over(queue, [job])
            private_redis.sigstop()
            running.first_signal()
            try:
                async with asyncio.timeout(15):
                    await asyncio.wait({running.main})
                assert running.main.done()
            finally:
                private_redis.sigcont()
