"""Jobs with a row, between Redis and the database: kept once they ended, queued again where they are lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.duties.keep_results import Keeper
from scheduler.duties.reconcile_jobs import Reconciler
from shared.clock import SystemClock
from shared.db.engine import create_engine, writing
from shared.db.repositories import jobs
from shared.db.repositories.jobs import KeptJob, NewJob, StoredResult
from shared.domain.job import OWN_ROW, Job, JobState
from shared.domain.trace import TraceOrigin
from shared.ids import AccountId, JobId
from shared.queue.ended import EndedJobs
from shared.queue.redis_link import RedisLink
from shared.settings import JobSettings, QueueSettings
from tests.integration.queue.support import ACME, Queue, a_job, open_link

pytestmark = pytest.mark.xdist_group("kept-jobs")

SETTINGS = JobSettings(lost_after_seconds=0.001)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        await link.execute("FLUSHALL")
        yield link


@pytest.fixture
def queue(link: RedisLink) -> Queue:
    return Queue(link, QueueSettings())


class Kept:
    """A scheduler's duties, and what they work on."""

    def __init__(self, queue: Queue, engine: AsyncEngine) -> None:
        self.queue = queue
        self.engine = engine
        self.ended = EndedJobs(queue.link, queue.settings)
        self.keeper = Keeper(self.ended, engine)
        self.reconciler = Reconciler(self.ended, self.keeper, queue.producer, engine, SETTINGS)

    async def accept(self, *, stream: bool = False, seconds: float = 60.0, queued: bool = True) -> Job:
        now = SystemClock().now()
        job = replace(a_job(stream=stream), row=OWN_ROW, trace=TraceOrigin("00-1-2-01"))
        new = NewJob(
            job=job,
            cost=1,
            fingerprint="",
            idempotency=None,
            retain_seconds=60,
            stores_body=False,
            notes=None,
            webhook_url=None,
            created_at=now - timedelta(seconds=1),
            deadline_at=now + timedelta(seconds=seconds),
        )
        async with writing(self.engine) as connection:
            assert await jobs.create(connection, [new]) == {job.id}
        if queued:
            await self.queue.producer.enqueue(job, reply_to="", keep=True)
        return job

    async def run(self, *, body: bytes = b'{"a":1}') -> Job:
        worker = self.queue.consumer("worker")
        await worker.create_groups()
        lease = await self.queue.lease(worker)
        if lease.job.stream:
            await worker.append(lease, 1, [b'{"n":1}', b'{"n":2}'])
        await self.queue.finish(worker, lease, body=body)
        return lease.job

    async def row(self, job_id: JobId, account: AccountId = ACME) -> KeptJob:
        async with self.engine.connect() as connection:
            found = await jobs.find(connection, account, job_id)
        assert found is not None
        return found

    async def result(self, job_id: JobId) -> StoredResult:
        async with self.engine.connect() as connection:
            found = await jobs.stored_result(connection, ACME, job_id)
        assert found is not None
        return found


@pytest.fixture
def kept(queue: Queue, engine: AsyncEngine) -> Kept:
    return Kept(queue, engine)


async def test_what_became_of_a_job_goes_into_its_row_and_then_may_leave_redis(kept: Kept) -> None:
    job = await kept.accept()
    await kept.run()
    key = f"hr:{{0}}:job:{job.id}"
    before = await kept.queue.link.execute("TTL", key)

    taken = await kept.keeper.keep_next(block_ms=0)

    row, result = await kept.row(job.id), await kept.result(job.id)
    assert (before, taken) == (-1, 1)
    assert 0 < await kept.queue.link.execute("TTL", key) <= 600
    assert (row.state, result.result_body, result.body) == (JobState.SUCCEEDED, b'{"a":1}', None)
    assert row.finished_at is not None
    assert row.expires_at == row.finished_at + timedelta(seconds=60)
    assert await kept.keeper.keep_next(block_ms=0) == 0


async def test_a_job_that_ended_before_anybody_wanted_it_kept_is_kept_from_then_on(kept: Kept) -> None:
    """An Idempotency-Key that stood for a plain request stands for a job with a row now."""
    job = await kept.accept(queued=False)
    await kept.queue.producer.enqueue(replace(job, row=None), reply_to="", keep=True)
    await kept.run()
    before = await kept.keeper.keep_next(block_ms=0)

    attached = [await kept.queue.producer.enqueue(job, reply_to="", keep=True) for _ in range(2)]
    taken = await kept.keeper.keep_next(block_ms=0)

    assert [accepted.state for accepted in attached] == [JobState.SUCCEEDED] * 2
    assert (before, taken) == (0, 1)
    assert (await kept.row(job.id)).state is JobState.SUCCEEDED
    assert (await kept.result(job.id)).result_body == b'{"a":1}'


async def test_a_job_that_runs_when_somebody_wants_it_kept_is_kept_at_its_end(kept: Kept) -> None:
    job = await kept.accept(queued=False)
    await kept.queue.producer.enqueue(replace(job, row=None), reply_to="", keep=True)
    await kept.queue.producer.enqueue(job, reply_to="", keep=True)

    await kept.run()

    assert await kept.keeper.keep_next(block_ms=0) == 1
    assert (await kept.row(job.id)).state is JobState.SUCCEEDED


async def test_a_job_that_somebody_was_told_of_is_not_dropped(kept: Kept) -> None:
    told, dropped = await kept.accept(queued=False), await kept.accept(queued=False)

    async with writing(kept.engine) as connection:
        assert await jobs.tell(connection, told.id)
        assert [await jobs.drop(connection, job.id) for job in (told, dropped)] == [False, True]
        assert not await jobs.tell(connection, dropped.id)

    assert (await kept.row(told.id)).is_open


async def test_a_stream_is_kept_with_every_event(kept: Kept) -> None:
    job = await kept.accept(stream=True)
    await kept.run(body=b"")

    await kept.keeper.keep_next(block_ms=0)

    assert (await kept.result(job.id)).events == b'{"n":1}\n{"n":2}'


async def test_a_row_that_ended_never_changes(kept: Kept) -> None:
    job = await kept.accept()
    await kept.run(body=b'{"first":1}')
    await kept.keeper.keep_next(block_ms=0)
    await kept.queue.link.execute("FLUSHALL")
    await kept.queue.producer.enqueue(job, reply_to="", keep=True)
    await kept.run(body=b'{"second":1}')

    await kept.keeper.keep_next(block_ms=0)

    assert (await kept.result(job.id)).result_body == b'{"first":1}'


async def test_a_job_that_redis_lost_is_queued_again_and_one_that_it_has_is_not(kept: Kept) -> None:
    there = await kept.accept()
    lost = await kept.accept(queued=False)

    done = await kept.reconciler.look()
    again = await kept.reconciler.look()

    assert (done.looked_at, done.queued, again.queued) == (2, 1, 0)
    ran = {job.id: job for job in (await kept.run(), await kept.run())}
    assert ran.keys() == {there.id, lost.id}
    # What its trace goes back to is long over.
    assert {job_id: job.trace and job.trace.is_past for job_id, job in ran.items()} == {
        there.id: False,
        lost.id: True,
    }


async def test_a_lost_job_whose_time_is_over_has_expired(kept: Kept) -> None:
    job = await kept.accept(seconds=-1, queued=False)

    done = await kept.reconciler.look()

    assert (done.expired, (await kept.row(job.id)).state) == (1, JobState.EXPIRED)


async def test_a_job_that_no_worker_takes_expires_some_time_after_its_deadline(kept: Kept) -> None:
    soon = await kept.accept(seconds=-5)
    late = await kept.accept(seconds=-60)

    await kept.reconciler.look()

    assert (await kept.row(soon.id)).state is JobState.QUEUED
    assert (await kept.row(late.id)).state is JobState.EXPIRED


async def test_an_end_that_nobody_was_told_of_is_kept_all_the_same(kept: Kept) -> None:
    job = await kept.accept()
    await kept.run()
    await kept.queue.link.execute("DEL", "hr:{0}:ended")

    done = await kept.reconciler.look()

    assert (done.kept, (await kept.row(job.id)).state) == (1, JobState.SUCCEEDED)


async def test_an_answer_that_redis_loses_while_it_is_kept_is_not_kept_empty(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await kept.accept()
    await kept.run()
    look = kept.ended.look

    async def look_and_lose(ids: list[JobId]) -> object:
        found = await look(ids)
        await kept.queue.link.execute("FLUSHALL")
        return found

    monkeypatch.setattr(kept.ended, "look", look_and_lose)
    await kept.keeper.keep_next(block_ms=0)

    assert (await kept.row(job.id)).state is JobState.QUEUED


async def test_results_go_when_their_time_is_over_and_the_job_stays_known(kept: Kept) -> None:
    job = await kept.accept()
    await kept.run()
    await kept.keeper.keep_next(block_ms=0)

    async with writing(kept.engine) as connection:
        early = await jobs.drop_results(connection, SystemClock().now(), limit=10)
        due = await jobs.drop_results(connection, SystemClock().now() + timedelta(minutes=2), limit=10)
        known = await jobs.remove_before(connection, SystemClock().now() - timedelta(days=1), limit=10)

    assert (early, due, known) == (0, 1, 0)
    assert (await kept.result(job.id)).result_body is None
    assert (await kept.row(job.id)).state is JobState.SUCCEEDED
