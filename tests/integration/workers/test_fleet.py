"""Several workers, one Redis: who is told what of a provider, and who may probe it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from redis.exceptions import RedisError

from shared import keyspace
from shared.clock import ManualClock
from shared.domain.conditions import BreakerState
from shared.providers import openai
from shared.queue.news import read_breakers
from shared.queue.redis_link import RedisLink
from shared.queue.subscription import Subscription
from shared.settings import BreakerSettings
from tests.fakes.eventually import eventually
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import open_link
from workers.breaker import Admission, Breaker
from workers.fleet import PROBE_SECONDS, Fleet

SETTINGS = BreakerSettings(fail_max=2)
PROFILE = openai.PROFILE
ACCOUNT = (PROFILE.id, "default")
OPEN, CLOSED, HALF_OPEN = BreakerState.OPEN, BreakerState.CLOSED, BreakerState.HALF_OPEN


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


@pytest.fixture
def fleets(link: RedisLink, clock: ManualClock) -> list[Fleet]:
    """Workers whose duty is done by hand."""
    return [Fleet(link, SETTINGS, [PROFILE.id], clock=clock) for _ in range(3)]


def breaker_of(fleet: Fleet) -> Breaker:
    return fleet.breakers.get(PROFILE, "default")


def trip(fleet: Fleet) -> None:
    for _ in range(SETTINGS.fail_max):
        breaker_of(fleet).admit().failed()


async def exchange(fleets: list[Fleet]) -> None:
    for fleet in fleets:
        await fleet.tell()
    for fleet in fleets:
        await fleet.look()


async def probe(fleet: Fleet) -> Admission | None:
    """The admission of a probe, when this worker may make it."""
    admission = breaker_of(fleet).admit()
    if not admission.allowed:
        return None
    assert admission.is_probe
    return admission if await fleet.may_probe(breaker_of(fleet), admission) == 0 else None


@asynccontextmanager
async def at_work(url: str, fleet: Fleet) -> AsyncIterator[Subscription]:
    subscription = Subscription(
        url, [keyspace.CONDITIONS_CHANNEL], on_message=lambda _, payload: fleet.on_message(payload)
    )
    await subscription.start()
    await subscription.wait_open()
    duty = asyncio.create_task(fleet.run_forever())
    try:
        yield subscription
    finally:
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
        await subscription.close()


async def test_a_breaker_that_opens_opens_in_every_worker(fleets: list[Fleet], clock: ManualClock) -> None:
    trip(fleets[0])

    await exchange(fleets)

    assert [breaker_of(fleet).state for fleet in fleets] == [OPEN] * 3
    assert breaker_of(fleets[2]).open_seconds == pytest.approx(SETTINGS.reset_seconds, abs=2)


async def test_half_open_sends_one_probe_of_the_whole_fleet(fleets: list[Fleet], clock: ManualClock) -> None:
    trip(fleets[0])
    await exchange(fleets)
    clock.advance(SETTINGS.reset_seconds)

    probes = await asyncio.gather(*(probe(fleet) for fleet in fleets for _ in range(10)))

    assert sum(one is not None for one in probes) == 1


async def test_a_probe_that_succeeds_closes_the_breaker_for_all(
    fleets: list[Fleet], clock: ManualClock
) -> None:
    trip(fleets[0])
    await exchange(fleets)
    clock.advance(SETTINGS.reset_seconds)
    admission = await probe(fleets[1])
    assert admission is not None

    admission.succeeded()
    fleets[1].probe_ended(breaker_of(fleets[1]))
    await exchange(fleets)

    assert [breaker_of(fleet).state for fleet in fleets] == [CLOSED] * 3


@pytest.mark.parametrize("end", ["abandoned", "paced"])
async def test_a_probe_that_says_nothing_leaves_it_to_another_worker(
    fleets: list[Fleet], clock: ManualClock, end: str
) -> None:
    trip(fleets[0])
    await exchange(fleets)
    clock.advance(SETTINGS.reset_seconds)
    admission = await probe(fleets[1])
    assert admission is not None
    assert await probe(fleets[2]) is None

    getattr(admission, end)()
    fleets[1].probe_ended(breaker_of(fleets[1]))
    await exchange(fleets)
    clock.advance(1)

    assert await probe(fleets[2]) is not None


async def test_the_probe_of_a_worker_that_dies_is_made_by_another(
    fleets: list[Fleet], clock: ManualClock, link: RedisLink
) -> None:
    trip(fleets[0])
    await exchange(fleets)
    clock.advance(SETTINGS.reset_seconds)
    assert await probe(fleets[0]) is not None

    left_ms = await link.execute("PTTL", keyspace.probe(*ACCOUNT))

    assert 0 < left_ms <= PROBE_SECONDS * 1000


async def test_a_long_probe_keeps_its_permit(
    fleets: list[Fleet], clock: ManualClock, link: RedisLink
) -> None:
    trip(fleets[0])
    clock.advance(SETTINGS.reset_seconds)
    assert await probe(fleets[0]) is not None
    await link.execute("PEXPIRE", keyspace.probe(*ACCOUNT), 500)

    await fleets[0].look()

    assert await link.execute("PTTL", keyspace.probe(*ACCOUNT)) > 1_000


async def test_a_worker_that_boots_after_the_breaker_opened_probes_first(
    fleets: list[Fleet], clock: ManualClock, link: RedisLink
) -> None:
    fleets[0].breakers._settings = SETTINGS.model_copy(update={"reset_seconds": 0.01})
    trip(fleets[0])
    await fleets[0].tell()
    clock.advance(SETTINGS.reset_seconds)

    await eventually(lambda: no_longer_open(link), "the end of its time")
    await fleets[1].look()

    assert breaker_of(fleets[1]).admit().is_probe


async def no_longer_open(link: RedisLink) -> bool:
    (record,) = await read_breakers(link, [PROFILE.id])
    return record.open_seconds == 0


async def test_old_news_do_not_open_a_breaker_again(fleets: list[Fleet], clock: ManualClock) -> None:
    trip(fleets[0])
    await exchange(fleets)
    breaker_of(fleets[1]).adopt_closed()

    await exchange(fleets)

    assert breaker_of(fleets[1]).state is CLOSED


async def test_credentials_and_origins_fail_each_by_themselves(
    fleets: list[Fleet], clock: ManualClock
) -> None:
    elsewhere = replace(PROFILE, base_url="https://proxy.example/v1")
    trip(fleets[0])

    await exchange(fleets)

    assert fleets[1].breakers.get(PROFILE, "own").state is CLOSED
    assert fleets[1].breakers.get(elsewhere, "default").state is CLOSED
    assert fleets[1].breaker_state(PROFILE.id)[0] is OPEN
    assert fleets[1].breaker_state("anthropic")[0] is CLOSED


async def test_a_pause_holds_for_every_worker_and_is_not_cut_short(fleets: list[Fleet]) -> None:
    fleets[0].pause(*ACCOUNT, 20)
    await exchange(fleets)
    fleets[1].pauses._until.clear()
    fleets[1].pause(*ACCOUNT, 3)

    await exchange(fleets)

    assert fleets[1].pauses.remaining(*ACCOUNT) == pytest.approx(20, abs=2)
    assert fleets[2].pauses.remaining(*ACCOUNT) == pytest.approx(20, abs=2)


async def test_news_arrive_without_being_looked_for(redis_url: str) -> None:
    async with open_link(redis_url) as here, open_link(redis_url) as there:
        one, other = (Fleet(link, SETTINGS, [PROFILE.id]) for link in (here, there))
        async with at_work(redis_url, one), at_work(redis_url, other):
            await eventually(lambda: other._versions == {} and not other._news.is_set(), "both at work")
            other.look = never  # type: ignore[method-assign]  # a stand-in that never answers

            one.pause(*ACCOUNT, 20)
            trip(one)

            await eventually(lambda: breaker_of(other).state is OPEN, "the breaker of the other", within=2)
            await eventually(lambda: other.pauses.remaining(*ACCOUNT), "the pause of the other", within=2)


async def never() -> None:
    raise AssertionError("looked")


async def test_a_lost_message_is_made_up_for_by_a_look(redis_url: str) -> None:
    async with open_link(redis_url) as here, open_link(redis_url) as there:
        one, other = (Fleet(link, SETTINGS, [PROFILE.id]) for link in (here, there))
        other.on_message = lambda payload: None  # type: ignore[method-assign]  # a stand-in that hears nothing
        async with at_work(redis_url, one), at_work(redis_url, other):
            one.pause(*ACCOUNT, 20)
            trip(one)

            await eventually(lambda: breaker_of(other).state is OPEN, "the breaker of the other", within=3)
            await eventually(lambda: other.pauses.remaining(*ACCOUNT), "the pause of the other", within=3)


async def test_without_redis_each_worker_goes_by_what_it_knows_and_tells_it_later(
    private_redis: RedisServer, clock: ManualClock
) -> None:
    async with open_link(private_redis.url, timeout=1) as link:
        alone, other = (Fleet(link, SETTINGS, [PROFILE.id], clock=clock) for _ in range(2))
        private_redis.kill9()
        trip(alone)
        alone.pause(*ACCOUNT, 300)
        with pytest.raises(RedisError):
            await alone.tell()
        clock.advance(SETTINGS.reset_seconds)
        admission = await probe(alone)
        assert admission is not None
        admission.failed()
        alone.probe_ended(breaker_of(alone))
        private_redis.start()

        await exchange([alone, other])

        assert breaker_of(other).state is OPEN
        assert other.pauses.remaining(*ACCOUNT) == pytest.approx(270, abs=2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"[]",
        b"1",
        b'{"about":"weather"}',
        b'{"about":"breaker","provider":"openai"}',
        b'{"about":"pause"}',
    ],
)
async def test_a_message_of_another_release_is_left_alone(fleets: list[Fleet], payload: bytes) -> None:
    fleets[0].on_message(payload)

    assert breaker_of(fleets[0]).state is CLOSED


async def test_a_record_of_another_release_is_left_alone(fleets: list[Fleet], link: RedisLink) -> None:
    await link.execute("HSET", keyspace.breaker(PROFILE.id), "default|x", "{}", "default|y", "open")

    await fleets[0].look()

    assert fleets[0].breaker_state(PROFILE.id) == (CLOSED, 0.0)
