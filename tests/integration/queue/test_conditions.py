"""How providers do, written by workers and read by the api."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared import keyspace
from shared.clock import ManualClock
from shared.domain.conditions import UNKNOWN, BreakerState
from shared.domain.job import Lane
from shared.queue.conditions import STALE_SECONDS, Conditions, ConditionsWriter
from shared.queue.news import BreakerNews, PauseNews, tell
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings
from tests.integration.queue.support import PROVIDER, Queue, a_job, open_link

ORIGIN = "https://api.openai.com:443"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


@pytest.fixture
def conditions(link: RedisLink, clock: ManualClock) -> Conditions:
    return Conditions(link, lambda: [PROVIDER], shards=1, clock=clock)


def a_writer(
    link: RedisLink, clock: ManualClock, name: str = "worker", *, slots: int = 8, free: int = 0
) -> ConditionsWriter:
    return ConditionsWriter(link, name, [PROVIDER], slots=slots, free=lambda: free, clock=clock)


def breaker(state: BreakerState, seconds: float = 0, *, credential: str = "default") -> BreakerNews:
    return BreakerNews(PROVIDER, ORIGIN, credential, state, seconds, "a worker")


def test_before_any_look_nothing_is_known_and_everything_usable(conditions: Conditions) -> None:
    assert dict(conditions) == {}
    assert conditions.of(PROVIDER) is UNKNOWN
    assert conditions.get("nobody") is None


async def test_slots_rates_and_latencies_of_all_workers_come_together(
    link: RedisLink, clock: ManualClock, conditions: Conditions
) -> None:
    first, second = a_writer(link, clock, "a"), a_writer(link, clock, "b", slots=4)
    for _ in range(60):
        for writer, seconds in ((first, 1.0), (second, 3.0)):
            writer.note_end(PROVIDER, "gpt", seconds, ok=True)
        first.note_end(PROVIDER, "gpt", 99.0, ok=False)
        clock.advance(1)
        await first.write()
        await second.write()

    await conditions.look()

    found = conditions[PROVIDER]
    assert found.slots == 12
    assert found.drained_per_second == pytest.approx(3, abs=0.05)
    assert found.latency_seconds == {"gpt": pytest.approx(2)}


async def test_a_rate_is_known_at_once_and_follows_within_some_ten_seconds(
    link: RedisLink, clock: ManualClock, conditions: Conditions
) -> None:
    writer = a_writer(link, clock)

    async def a_second(ended: int) -> float:
        for _ in range(ended):
            writer.note_end(PROVIDER, "gpt", 1.0, ok=True)
        clock.advance(1)
        await writer.write()
        await conditions.look()
        return conditions[PROVIDER].drained_per_second

    assert await a_second(20) == 20
    assert 15 < await a_second(0) <= 20
    for _ in range(10):
        rate = await a_second(4)
    assert 4 < rate < 11


async def test_what_workers_end_that_have_little_to_do_says_nothing_of_what_they_can(
    link: RedisLink, clock: ManualClock, conditions: Conditions
) -> None:
    writer = a_writer(link, clock, slots=8, free=7)
    for _ in range(30):
        writer.note_end(PROVIDER, "gpt", 0.5, ok=True)
        clock.advance(10)
        await writer.write()

    await conditions.look()

    assert conditions[PROVIDER].drained_per_second == pytest.approx(16)


async def test_jobs_ahead_are_those_of_higher_lanes(link: RedisLink, conditions: Conditions) -> None:
    queue = Queue(link, QueueSettings())
    await queue.enqueue(a_job(), a_job(), a_job(lane=Lane.STANDARD), a_job(lane=Lane.BATCH))

    await conditions.look()

    assert [conditions[PROVIDER].ahead_of(lane) for lane in Lane] == [0, 2, 3]


async def test_a_worker_that_leaves_or_fell_silent_is_not_counted(
    link: RedisLink, clock: ManualClock, conditions: Conditions
) -> None:
    left, silent, alive = (a_writer(link, clock, name) for name in ("left", "silent", "alive"))
    for writer in (left, silent, alive):
        await writer.write()
    await left.leave()
    await make_older(link, "silent", STALE_SECONDS + 1)

    await conditions.look()

    assert conditions[PROVIDER].slots == 8
    assert set(await link.execute("HKEYS", keyspace.load(PROVIDER))) == {b"silent", b"alive"}
    await a_writer(link, clock, "new").write()
    assert set(await link.execute("HKEYS", keyspace.load(PROVIDER))) == {b"alive", b"new"}


async def make_older(link: RedisLink, consumer: str, seconds: float) -> None:
    key = keyspace.load(PROVIDER)
    moment, _, text = (await link.execute("HGET", key, consumer)).partition(b" ")
    await link.execute("HSET", key, consumer, f"{int(moment) - int(seconds * 1000)} {text.decode()}")


async def test_the_models_of_a_worker_are_bounded(
    link: RedisLink, clock: ManualClock, conditions: Conditions
) -> None:
    writer = a_writer(link, clock)
    for n in range(1_000):
        writer.note_end(PROVIDER, f"model-{n}", 1.0, ok=True)
    writer.note_end("nobody", "model", 1.0, ok=True)
    await writer.write()

    await conditions.look()

    assert list(conditions[PROVIDER].latency_seconds)[-1] == "model-999"
    assert len(conditions[PROVIDER].latency_seconds) == 64


async def test_what_waits_and_runs_is_that_of_the_queue(link: RedisLink, conditions: Conditions) -> None:
    queue = Queue(link, QueueSettings())
    worker = queue.consumer("worker")
    await worker.create_groups()
    await queue.enqueue(*(a_job() for _ in range(3)))
    await queue.read(worker, count=1)

    await conditions.look()

    assert (conditions[PROVIDER].queued, conditions[PROVIDER].in_flight) == (2, 1)


async def test_an_open_breaker_and_a_pause_are_seen_and_run_out_by_themselves(
    link: RedisLink, clock: ManualClock, conditions: Conditions
) -> None:
    await tell(link, [breaker(BreakerState.OPEN, 30), PauseNews(PROVIDER, "default", 10)])
    await conditions.look()
    seen = conditions[PROVIDER]
    assert (seen.breaker, seen.is_usable) == (BreakerState.OPEN, False)
    assert seen.open_seconds == pytest.approx(30, abs=1)
    assert seen.paused_seconds == pytest.approx(10, abs=1)

    clock.advance(11)
    assert conditions[PROVIDER].paused_seconds == 0
    clock.advance(20)

    assert conditions[PROVIDER].breaker is BreakerState.HALF_OPEN
    assert conditions[PROVIDER].is_usable


async def test_a_breaker_that_closed_is_seen_closed(link: RedisLink, conditions: Conditions) -> None:
    await tell(link, [breaker(BreakerState.OPEN, 30)])
    await conditions.look()
    await tell(link, [breaker(BreakerState.CLOSED)])

    await conditions.look()

    assert conditions[PROVIDER].is_usable


async def test_what_befell_the_credential_of_one_caller_is_no_news_for_others(
    link: RedisLink, conditions: Conditions
) -> None:
    await tell(link, [breaker(BreakerState.OPEN, 30, credential="own"), PauseNews(PROVIDER, "own", 30)])

    await conditions.look()

    assert conditions[PROVIDER].is_usable


async def test_messages_count_before_the_next_look(conditions: Conditions) -> None:
    message = (
        b'{"about":"breaker","provider":"openai","origin":"o","credential":"default","ms":9000,"source":"w"'
    )

    conditions.on_message(message + b',"state":"open"}')
    assert not conditions[PROVIDER].is_usable
    conditions.on_message(message + b',"state":"closed"}')
    assert conditions[PROVIDER].is_usable
    conditions.on_message(b'{"about":"pause","provider":"openai","credential":"own","ms":9000}')
    assert conditions[PROVIDER].is_usable
    conditions.on_message(b'{"about":"pause","provider":"openai","credential":"default","ms":9000}')

    assert conditions[PROVIDER].paused_seconds == pytest.approx(9)
