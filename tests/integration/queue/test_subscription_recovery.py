"""A subscription that lost its connection says so by confirming the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from shared.queue.redis_link import RedisLink
from shared.queue.subscription import Subscription
from tests.fakes.eventually import eventually
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import open_link


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Of one server: all of it is about its one connection."""
    return redis_server.url


class Listener:
    """A subscription whose events can be awaited."""

    def __init__(self, url: str, *channels: str) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.subscribed = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.subscription = Subscription(
            url, channels or ("news",), on_message=self._on_message, on_subscribed=self._on_subscribed
        )

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        self.messages.append((channel, payload))
        self._tell()

    def _on_subscribed(self) -> None:
        self.subscribed += 1
        self._tell()

    def _tell(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.ensure_future(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)


@pytest.fixture
async def listener(redis_url: str) -> AsyncIterator[Listener]:
    listener = Listener(redis_url)
    await listener.subscription.start()
    await listener.until(lambda: listener.subscribed == 1)
    yield listener
    await listener.subscription.close()


async def test_every_message_published_while_it_is_open_arrives_in_order(
    listener: Listener, link: RedisLink
) -> None:
    for i in range(500):
        await link.execute("PUBLISH", "news", str(i))

    await listener.until(lambda: len(listener.messages) == 500)
    assert listener.messages == [(b"news", str(i).encode()) for i in range(500)]


async def test_it_subscribes_again_each_time_the_server_drops_it(listener: Listener, link: RedisLink) -> None:
    for turn in range(1, 21):
        assert await link.execute("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await listener.until(lambda turn=turn: listener.subscribed == turn + 1)  # type: ignore[misc]  # mypy types no lambda with a default
        assert listener.subscription.is_open

        assert await link.execute("PUBLISH", "news", str(turn)) == 1
        await listener.until(lambda turn=turn: len(listener.messages) == turn)  # type: ignore[misc]  # mypy types no lambda with a default


async def test_it_is_open_only_once_all_its_channels_are(redis_url: str, link: RedisLink) -> None:
    names = [f"channel-{i}" for i in range(50)]
    listener = Listener(redis_url, *names)
    await listener.subscription.start()

    await listener.subscription.wait_open()

    counts = await link.execute("PUBSUB", "NUMSUB", *names)
    assert counts[1::2] == [1] * 50
    assert listener.subscribed == 1
    await listener.subscription.close()


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.queue.subscription._PING_SECONDS", 0.05)


async def test_a_connection_that_fell_silent_is_given_up(
    quick_pings: None, private_redis: RedisServer
) -> None:
    listener = Listener(private_redis.url)
    await listener.subscription.start()
    await listener.until(lambda: listener.subscribed == 1)

    private_redis.sigstop()
    try:
        await eventually(lambda: not listener.subscription.is_open, "the silence is noticed")
    finally:
        private_redis.sigcont()

    await listener.until(lambda: listener.subscribed >= 2)
    async with open_link(private_redis.url) as link:
        await link.execute("PUBLISH", "news", "back")
    await listener.until(lambda: (b"news", b"back") in listener.messages)
    await listener.subscription.close()


async def test_a_connection_on_which_nothing_is_published_is_kept(
    quick_pings: None, redis_url: str, link: RedisLink
) -> None:
    listener = Listener(redis_url)
    await listener.subscription.start()
    await listener.until(lambda: listener.subscribed == 1)
    await link.execute("CONFIG", "RESETSTAT")

    while b"cmdstat_ping:calls=5" not in await link.execute("INFO", "commandstats"):
        pass

    assert listener.subscribed == 1
    assert listener.subscription.is_open
    await listener.subscription.close()
