"""Who is told that nobody serves a provider, and when."""

from __future__ import annotations

import pytest

from shared import keyspace
from shared.errors import NoWorker
from shared.queue.presence import Presence
from tests.integration.queue.support import Queue

OTHER = "anthropic"
PATIENCE = 60.0
"""Default of `unserved_seconds`."""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(queue: Queue, clock: Clock) -> Presence:
    return Presence(queue.link, queue.settings, ["openai", OTHER], clock)


@pytest.fixture
def worker(queue: Queue) -> Presence:
    return Presence(queue.link, queue.settings)


async def pass_time(api: Presence, clock: Clock, seconds: float) -> None:
    """With a look every two seconds."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += 2
        await api.look()


async def test_a_provider_that_no_worker_served_for_a_minute_is_refused_by_name(
    api: Presence, worker: Presence, clock: Clock
) -> None:
    await worker.announce(["openai"])

    await pass_time(api, clock, PATIENCE)

    api.require("openai")
    with pytest.raises(NoWorker, match=OTHER) as refused:
        api.require(OTHER)
    error = refused.value
    assert (error.status, error.code, error.retry_after_seconds) == (503, "no_worker", 5)
    assert error.details == {"provider": OTHER}


async def test_a_provider_served_with_accounts_own_keys_alone_is_there_for_who_has_one(
    api: Presence, worker: Presence, clock: Clock
) -> None:
    await worker.announce(["openai", OTHER], keyless={OTHER})

    await pass_time(api, clock, PATIENCE)

    for own in (False, True):
        api.require("openai", own=own)
    api.require(OTHER, own=True)
    with pytest.raises(NoWorker):
        api.require(OTHER)
    assert api.served() == ["openai"]


async def test_an_api_that_boots_before_its_workers_refuses_nobody(api: Presence, clock: Clock) -> None:
    await pass_time(api, clock, PATIENCE - 2)

    assert api.serves("openai")
    assert api.served() == []


async def test_a_rolling_restart_of_the_workers_refuses_nobody(
    queue: Queue, api: Presence, worker: Presence, clock: Clock
) -> None:
    await worker.announce(["openai"])
    await pass_time(api, clock, 600)
    await queue.link.execute("DEL", keyspace.served("openai"))

    await pass_time(api, clock, PATIENCE - 2)
    assert (api.serves("openai"), api.served()) == (True, ["openai"])
    await pass_time(api, clock, 2)
    assert (api.serves("openai"), api.served()) == (False, [])
    await worker.announce(["openai"])
    await pass_time(api, clock, 2)
    assert (api.serves("openai"), api.served()) == (True, ["openai"])


async def test_time_in_which_redis_was_away_counts_against_no_worker(
    queue: Queue, api: Presence, worker: Presence, clock: Clock
) -> None:
    await worker.announce(["openai"])
    await pass_time(api, clock, 10)
    await queue.link.execute("FLUSHALL")

    clock.now += 10 * PATIENCE
    assert api.serves("openai")
    await api.look()
    assert api.serves("openai")
    await pass_time(api, clock, PATIENCE)
    assert not api.serves("openai")


async def test_workers_are_listed_in_the_order_of_the_providers(
    api: Presence, worker: Presence, clock: Clock
) -> None:
    await worker.announce([OTHER, "openai"])

    await pass_time(api, clock, 2)

    assert api.served() == ["openai", OTHER]


async def test_an_announcement_lasts_three_heartbeats(queue: Queue, worker: Presence) -> None:
    await worker.announce(["openai"])

    left_ms = await queue.link.execute("PTTL", keyspace.served("openai"))

    assert 0 < left_ms <= 3 * queue.settings.heartbeat_seconds * 1000
