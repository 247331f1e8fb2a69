"""A subscription outlives what its server does, and every message reaches it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.queue import subscription as subscriptions
from shared.queue.redis_link import RedisLink
from shared.queue.subscription import Subscription
from tests.fakes.eventually import eventually
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import open_link


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
async def subscription(private_redis: RedisServer, heard: list[bytes]) -> AsyncIterator[Subscription]:
    subscription = Subscription(
        private_redis.url, ["news", "more"], on_message=lambda _, payload: heard.append(payload)
    )
    await subscription.start()
    await subscription.wait_open()
    yield subscription
    await subscription.close()


async def subscribers(link: RedisLink) -> int:
    clients: bytes = await link.execute("CLIENT", "LIST", "TYPE", "pubsub")
    return len(clients.splitlines())


async def test_each_try_to_reach_a_frozen_server_left_a_subscriber_and_messages_came_several_times(
    private_redis: RedisServer, heard: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_PING_SECONDS", 0.1)
    monkeypatch.setattr(subscriptions, "_BACKOFF_CAP_SECONDS", 0.05)
    subscription = Subscription(
        private_redis.url, ["news", "more"], on_message=lambda _, payload: heard.append(payload)
    )
    await subscription.start()
    await subscription.wait_open()

    private_redis.sigstop()
    try:
        await eventually(lambda: not subscription.is_open, "the silence is noticed")
        await asyncio.sleep(1.5)  # several tries, each accepted by the kernel and answered by nobody
    finally:
        private_redis.sigcont()
    await subscription.wait_open()

    async with open_link(private_redis.url) as link:

        async def one_subscriber() -> bool:
            return await subscribers(link) == 1

        await eventually(one_subscriber, "one subscribed client")
        sent = [b"%d" % n for n in range(20)]
        assert [await link.execute("PUBLISH", "news", payload) for payload in sent] == [1] * 20
        await eventually(lambda: len(heard) >= len(sent), "every message")
        await asyncio.sleep(0.2)  # room for a second copy
        assert await subscribers(link) == 1

    await subscription.close()
    assert heard == sent


async def test_a_closed_subscription_leaves_no_client(
    private_redis: RedisServer, subscription: Subscription
) -> None:
    async with open_link(private_redis.url) as link:
        assert await subscribers(link) == 1

        await subscription.close()

        async def nobody() -> bool:
            return await subscribers(link) == 0

        await eventually(nobody, "no subscribed client")
        assert not subscription.is_open


async def test_a_subscription_comes_back_after_its_server_was_killed(
    private_redis: RedisServer, subscription: Subscription, heard: list[bytes]
) -> None:
    private_redis.kill9()
    await eventually(lambda: not subscription.is_open, "the loss is noticed")
    private_redis.restart()
    await subscription.wait_open()

    async with open_link(private_redis.url) as link:
        assert await link.execute("PUBLISH", "more", b"again") == 1
        await eventually(lambda: heard == [b"again"], "the message")
