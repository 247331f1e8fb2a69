"""Tenants behind one another: what waits in a backlog, and in which turn it comes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import keyspace
from shared.domain.job import Job, Lane, Target
from shared.errors import QueueFull, TooManyWaiting, WaitTooLong
from shared.ids import AccountId
from shared.queue import depth
from shared.queue.consumer import Consumer, Lease
from shared.queue.delays import Delays
from shared.queue.producer import Accepted
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings
from tests.integration.queue.support import PROVIDER, Queue, a_job, open_link

WINDOW = 4


@pytest.fixture
async def narrow(link: RedisLink) -> Queue:
    return await a_queue(link, QueueSettings(ready_window=WINDOW))


async def a_queue(link: RedisLink, settings: QueueSettings) -> Queue:
    queue = Queue(link, settings)
    await queue.consumer("nobody").create_groups()
    return queue


def of(tenant: str, **more: object) -> Job:
    return replace(a_job(), account=AccountId(tenant), **more)  # type: ignore[arg-type]  # any field of a job


async def submit(queue: Queue, tenant: str, *, count: int = 1, cost: int = 100) -> None:
    for _ in range(count):
        await queue.producer.enqueue(of(tenant), reply_to="", cost=cost)


async def next_tenant(queue: Queue, worker: Consumer) -> str:
    """Of the next job, which then is done."""
    lease = await queue.lease(worker)
    await queue.finish(worker, lease)
    return lease.job.account


async def test_a_job_that_finds_room_goes_straight_into_its_lane(narrow: Queue, link: RedisLink) -> None:
    accepted = [await narrow.producer.enqueue(of("a"), reply_to="") for _ in range(WINDOW)]

    assert [answer.position for answer in accepted] == [0] * WINDOW
    assert not await link.execute("EXISTS", keyspace.backlog(0, PROVIDER, Lane.INTERACTIVE))


async def test_a_tenant_that_comes_late_waits_for_the_lane_alone_and_not_for_a_flood(narrow: Queue) -> None:
    worker = narrow.consumer("worker")
    await submit(narrow, "flood", count=300)
    await submit(narrow, "late")

    turns = [await next_tenant(narrow, worker) for _ in range(WINDOW + 2)]

    assert "late" in turns
    assert turns.count("flood") == WINDOW + 1


async def test_tenants_share_by_cost_and_not_by_number_of_jobs(narrow: Queue) -> None:
    worker = narrow.consumer("worker")
    await submit(narrow, "filler", count=WINDOW)
    await submit(narrow, "long", count=100, cost=3_000)
    await submit(narrow, "short", count=100, cost=1_000)

    turns = Counter([await next_tenant(narrow, worker) for _ in range(WINDOW + 80)])

    assert turns["filler"] == WINDOW
    assert turns["short"] == pytest.approx(60, abs=2)
    assert turns["long"] == pytest.approx(20, abs=2)


async def test_the_jobs_of_one_tenant_keep_their_order(narrow: Queue) -> None:
    worker = narrow.consumer("worker")
    jobs = [of("a" if number % 3 else "b") for number in range(40)]
    for job in jobs:
        await narrow.producer.enqueue(job, reply_to="", cost=10)

    came = []
    for _ in jobs:
        lease = await narrow.lease(worker)
        came.append(lease.job.id)
        await narrow.finish(worker, lease)

    for tenant in ("a", "b"):
        mine = [job.id for job in jobs if job.account == tenant]
        assert [job_id for job_id in came if job_id in mine] == mine


async def test_a_tenant_cannot_save_up_turns_while_it_asks_for_nothing(narrow: Queue) -> None:
    worker = narrow.consumer("worker")
    await submit(narrow, "busy", count=100)
    for _ in range(50):
        await next_tenant(narrow, worker)
    await submit(narrow, "idle", count=50)

    turns = Counter([await next_tenant(narrow, worker) for _ in range(WINDOW + 20)])

    assert turns["busy"] >= 10


async def test_a_job_that_waits_can_be_cancelled_and_leaves_nothing(narrow: Queue, link: RedisLink) -> None:
    worker = narrow.consumer("worker")
    await submit(narrow, "a", count=WINDOW)
    waiting = of("a")
    await narrow.producer.enqueue(waiting, reply_to="")

    assert await narrow.producer.cancel(waiting) == "cancelled"

    backlog = keyspace.backlog(0, PROVIDER, Lane.INTERACTIVE)
    assert await link.execute("EXISTS", backlog, f"{backlog}:tenants") == 0
    for _ in range(WINDOW):
        await next_tenant(narrow, worker)
    assert await narrow.entries(waiting) == []


async def test_what_waits_counts_as_queued_and_has_an_age(narrow: Queue, link: RedisLink) -> None:
    await submit(narrow, "a", count=WINDOW + 3)
    await narrow.read(narrow.consumer("worker"), count=WINDOW)
    head = await link.execute("ZRANGE", keyspace.backlog(0, PROVIDER, Lane.INTERACTIVE), 0, 0)
    created = int(await link.execute("HGET", head[0], "created"))
    await link.execute("HSET", head[0], "created", created - 5_000)

    interactive = (await depth.measure(link, [PROVIDER], shards=1))[0]

    assert (interactive.queued, interactive.waiting, interactive.in_flight) == (3, 3, WINDOW)
    assert interactive.oldest_age_seconds >= 5


async def test_jobs_whose_lane_nobody_begins_are_let_in_by_whoever_looks(
    narrow: Queue, link: RedisLink
) -> None:
    worker = narrow.consumer("worker")
    await submit(narrow, "a", count=WINDOW + 2)
    # As a worker of the last release would: it takes and ends them, and knows of no backlog.
    for _, fields in await link.execute("XRANGE", narrow.lane_key(a_job()), "-", "+"):
        assert fields
    await link.execute("XTRIM", narrow.lane_key(a_job()), "MAXLEN", 0)

    await worker.refill()

    assert len(await narrow.entries(a_job())) == 2


async def test_a_tenant_at_its_cap_lets_others_pass_and_comes_when_it_has_room(link: RedisLink) -> None:
    queue = await a_queue(link, QueueSettings(ready_window=WINDOW, tenant_max_in_flight=2))
    worker = queue.consumer("worker")
    await submit(queue, "big", count=6)
    await submit(queue, "small")

    running = [await queue.lease(worker) for _ in range(3)]
    assert sorted(lease.job.account for lease in running) == ["big", "big", "small"]
    assert await queue.read(worker) == []

    served = 0
    for lease in running:
        await queue.finish(worker, lease)
    while delivery := await queue.read(worker, count=10):
        assert len(delivery) <= 2
        for one in delivery:
            begun = await worker.begin(one)
            assert begun is not None
            await queue.finish(worker, begun)
            served += 1
    assert served == 4
    assert not await link.execute("EXISTS", f"{keyspace.backlog(0, PROVIDER, Lane.INTERACTIVE)}:flying")


async def test_a_capped_tenant_is_not_forgotten_when_its_jobs_vanish(link: RedisLink) -> None:
    queue = await a_queue(link, QueueSettings(ready_window=WINDOW, tenant_max_in_flight=1))
    worker = queue.consumer("worker")
    await submit(queue, "big", count=3)
    lost = await queue.lease(worker)
    await link.execute("DEL", keyspace.job(0, lost.job.id))
    await link.execute("XTRIM", queue.lane_key(lost.job), "MAXLEN", 0)

    await worker.refill()

    assert len(await queue.entries(lost.job)) == 1


async def test_what_waits_for_a_capped_tenant_counts_against_all_bounds(link: RedisLink) -> None:
    capped = QueueSettings(ready_window=WINDOW, tenant_max_in_flight=1, tenant_max_waiting=5)
    queue = await a_queue(link, capped)
    await submit(queue, "big", count=6)

    with pytest.raises(TooManyWaiting):
        await submit(queue, "big")
    roomy = Queue(link, capped.model_copy(update={"tenant_max_waiting": 50}))
    with pytest.raises(TooManyWaiting):
        await roomy.producer.enqueue(of("big", budget_ms=1_000), reply_to="", drained_per_second=4)
    small = Queue(link, capped.model_copy(update={"max_lane_entries": 6}))
    with pytest.raises(QueueFull):
        await submit(small, "other")


async def test_a_capped_tenant_goes_on_when_the_next_of_its_jobs_was_cancelled(link: RedisLink) -> None:
    queue = await a_queue(link, QueueSettings(ready_window=WINDOW, tenant_max_in_flight=1))
    worker = queue.consumer("worker")
    jobs = [of("big") for _ in range(3)]
    await queue.enqueue(*jobs)
    await submit(queue, "other")
    await queue.producer.cancel(jobs[1])

    turns = [(await finished(queue, worker)).job.id for _ in range(3)]

    assert jobs[2].id in turns


async def test_a_job_that_moved_and_was_cancelled_makes_room_where_it_was(link: RedisLink) -> None:
    queue = await a_queue(link, QueueSettings(ready_window=WINDOW, tenant_max_in_flight=1))
    worker = queue.consumer("worker")
    there = (Target("anthropic", "m"),)
    moved, waiting = of("big", plan=(Target(PROVIDER, "m"), *there)), of("big", plan=there)
    await queue.enqueue(moved)
    await worker.move(await queue.lease(worker), why="it failed", call_failed=True)
    await queue.enqueue(waiting)

    await queue.producer.cancel(moved)

    assert waiting.id in await queue.entries(waiting)


async def finished(queue: Queue, worker: Consumer) -> Lease:
    """The next job, done."""
    lease = await queue.lease(worker)
    await queue.finish(worker, lease)
    return lease


async def test_jobs_that_vanish_while_they_wait_do_not_spoil_the_estimates(
    narrow: Queue, link: RedisLink
) -> None:
    worker = narrow.consumer("worker")
    await submit(narrow, "filler", count=WINDOW)
    lost = [of("lost") for _ in range(3)]
    await narrow.enqueue(*lost)
    await submit(narrow, "a", count=5, cost=100)
    await link.execute("DEL", *(keyspace.job(0, job.id) for job in lost))
    for _ in range(2):
        await next_tenant(narrow, worker)

    accepted = await narrow.producer.enqueue(of("a"), reply_to="")

    assert accepted.position > WINDOW


async def test_a_tenant_may_not_fill_the_queue(link: RedisLink) -> None:
    queue = await a_queue(link, QueueSettings(ready_window=WINDOW, tenant_max_waiting=3))
    await submit(queue, "flood", count=WINDOW + 3)

    with pytest.raises(TooManyWaiting) as refused:
        await submit(queue, "flood")
    await submit(queue, "other")

    assert refused.value.status == 429
    assert 1 <= (refused.value.retry_after_seconds or 0) <= 60


async def test_what_waits_in_a_backlog_counts_against_the_bound_of_its_lane(link: RedisLink) -> None:
    queue = await a_queue(link, QueueSettings(ready_window=WINDOW, max_lane_entries=WINDOW + 2))
    await submit(queue, "a", count=WINDOW + 2)

    with pytest.raises(QueueFull):
        await submit(queue, "b")


async def test_jobs_put_aside_count_against_both_bounds_until_they_are_back(
    link: RedisLink,
) -> None:
    queue = await a_queue(link, QueueSettings(max_lane_entries=5, tenant_max_waiting=3))
    worker = queue.consumer("worker")
    for tenant in ("a", "a", "a", "b"):
        await submit(queue, tenant)
        await worker.defer(await queue.lease(worker), delay_seconds=0.3)

    with pytest.raises(TooManyWaiting):
        await submit(queue, "a")
    await submit(queue, "b")
    with pytest.raises(QueueFull):
        await submit(queue, "c")
    await asyncio.sleep(0.4)
    await Delays(link, queue.settings).promote([PROVIDER])

    assert not await link.execute("EXISTS", f"{keyspace.backlog(0, PROVIDER, Lane.INTERACTIVE)}:aside")


async def test_a_wait_longer_than_the_deadline_is_refused_at_the_door(narrow: Queue) -> None:
    await submit(narrow, "flood", count=WINDOW + 40)
    patient, hurried = of("flood", budget_ms=60_000), of("flood", budget_ms=1_000)

    accepted = await narrow.producer.enqueue(patient, reply_to="", drained_per_second=10)
    with pytest.raises(TooManyWaiting) as own_doing:
        await narrow.producer.enqueue(hurried, reply_to="", drained_per_second=10)
    unhurt = await narrow.producer.enqueue(of("other", budget_ms=1_000), reply_to="", drained_per_second=10)

    assert accepted.position == WINDOW + 41
    assert accepted.wait_ms == (WINDOW + 41) * 100
    assert 1 <= (own_doing.value.retry_after_seconds or 0) <= 4
    assert unhurt.position == WINDOW + 1
    with pytest.raises(WaitTooLong) as busy:
        await narrow.producer.enqueue(of("third", budget_ms=200), reply_to="", drained_per_second=10)
    assert busy.value.status == 503


@pytest.mark.parametrize(
    ("call_seconds", "budget_ms", "is_taken"),
    [(0.0, 6_000, True), (1.0, 6_000, False), (1.0, 7_000, True), (60.0, 12_000, True)],
)
async def test_the_call_itself_counts_at_the_door_up_to_half_of_the_time(
    narrow: Queue, call_seconds: float, budget_ms: int, is_taken: bool
) -> None:
    """5 s of waiting: of 10 a second, 50 come first."""
    await submit(narrow, "flood", count=49)
    job = of("flood", budget_ms=budget_ms)

    async def enqueue() -> Accepted:
        return await narrow.producer.enqueue(
            job, reply_to="", drained_per_second=10, call_seconds=call_seconds
        )

    if is_taken:
        assert (await enqueue()).wait_ms == 5_000
    else:
        with pytest.raises(TooManyWaiting):
            await enqueue()


async def test_a_fleet_whose_speed_nobody_knows_turns_nobody_away(narrow: Queue) -> None:
    await submit(narrow, "a", count=WINDOW + 40)

    accepted = await narrow.producer.enqueue(of("a", budget_ms=1), reply_to="")

    assert (accepted.position > 0, accepted.wait_ms) == (True, 0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(costs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 1_000)), min_size=20, max_size=60))
async def test_no_tenant_that_waits_gets_less_than_its_share(
    redis_url: str, costs: list[tuple[str, int]]
) -> None:
    """Start-time fair queueing: while both wait, what two tenants got differs by at most a job of each."""
    async with open_link(redis_url) as link:
        await link.execute_everywhere("FLUSHALL")
        queue = await a_queue(link, QueueSettings(ready_window=2))
        worker = queue.consumer("worker")
        await submit(queue, "filler", count=2)
        price: dict[str, int] = {}
        for tenant, cost in costs:
            job = of(tenant)
            price[job.id] = cost
            await queue.producer.enqueue(job, reply_to="", cost=cost)
        left = Counter(tenant for tenant, _ in costs)
        got: Counter[str] = Counter()
        for _ in range(2 + len(costs)):
            lease = await queue.lease(worker)
            await queue.finish(worker, lease)
            tenant = lease.job.account
            if tenant == "filler":
                continue
            left[tenant] -= 1
            got[tenant] += price[lease.job.id]
            waiting = [other for other in left if left[other] > 2]
            for one in waiting:
                for other in waiting:
                    assert got[one] - got[other] <= 2 * 1_000 * 2
