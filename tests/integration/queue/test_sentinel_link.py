"""A link to the master that sentinels name: the right one, and the next one when it dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import hiredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError

from shared.queue.arq_pool import arq_pool
from shared.queue.redis_link import TRANSIENT, RedisLink
from shared.queue.subscription import Subscription
from tests.fakes.eventually import eventually
from tests.fakes.redis_sentinel import RedisSentinel
from tests.fakes.redis_server import RedisServer, call
from tests.integration.queue.support import open_link

FAILOVER_SECONDS = 10.0
"""Twice what it takes: half a second to notice, an election, and a promotion."""


@pytest.fixture(scope="module")
def sentinel() -> Iterator[RedisSentinel]:
    """Left as it was. What breaks one takes a `private_sentinel`: quicker made than mended."""
    sentinel = RedisSentinel()
    sentinel.start()
    yield sentinel
    sentinel.stop(forget=True)


@pytest.fixture
async def link(private_sentinel: RedisSentinel) -> AsyncIterator[RedisLink]:
    async with open_link(private_sentinel.url, timeout=1) as link:
        yield link


async def answered(link: RedisLink) -> list[RedisError]:
    """Written again and again until it counts; what was raised until then."""
    errors: list[RedisError] = []

    async def look() -> bool:
        try:
            await link.execute("SET", "written", "1")
        except RedisError as exc:
            errors.append(exc)
            return False
        return True

    await eventually(look, "a write that counts", within=FAILOVER_SECONDS)
    return errors


async def test_commands_go_to_the_master(sentinel: RedisSentinel) -> None:
    async with open_link(sentinel.url, timeout=1) as link:
        await link.execute("SET", "x", "1")
        await link.execute("SET", "x", "2")

        assert sentinel.master.call("GET", "x") == "2"
        assert link.connections == 1


async def test_after_the_master_was_killed_the_next_one_is_found(
    private_sentinel: RedisSentinel, link: RedisLink
) -> None:
    await link.execute("SET", "x", "1")
    before, old = await link.reach("x"), private_sentinel.master

    old.kill9()
    errors = await answered(link)

    assert errors
    assert all(isinstance(error, TRANSIENT) for error in errors)
    assert private_sentinel.master is not old
    assert private_sentinel.master.call("GET", "written") == "1"
    assert await link.reach("x") != before


async def test_an_old_master_that_comes_back_is_not_taken_for_the_master(
    private_sentinel: RedisSentinel,
) -> None:
    old = private_sentinel.master
    old.kill9()
    private_sentinel.wait_for_another_master(old)
    old.start()

    # It is a master until the sentinels have told it otherwise.
    async with open_link(private_sentinel.url, timeout=1) as link:
        await answered(link)

    assert private_sentinel.master.call("GET", "written") == "1"


async def test_a_server_that_became_a_replica_is_left_with_the_first_write_it_refuses(
    private_sentinel: RedisSentinel, link: RedisLink
) -> None:
    await link.execute("SET", "x", "1")
    old = private_sentinel.master
    other = next(server for server in private_sentinel.servers if server is not old)

    old.call("REPLICAOF", "127.0.0.1", other.port)
    with pytest.raises(ReadOnlyError):
        await link.execute("SET", "x", "2")

    # What the sentinels name is no master, and a link does not write to what is none.
    with pytest.raises(RedisConnectionError, match="no master"):
        await link.execute("SET", "x", "3")
    old.call("REPLICAOF", "NO", "ONE")
    await answered(link)


async def test_sentinels_that_are_gone_or_frozen_are_done_without(sentinel: RedisSentinel) -> None:
    url = sentinel.url.replace("redis-sentinel://", "redis-sentinel://127.0.0.1:1,")
    async with open_link(url, timeout=1) as link:
        await link.execute("SET", "x", "1")


async def test_without_a_sentinel_calls_fail_within_the_timeout_and_say_so() -> None:
    async with open_link("redis-sentinel://127.0.0.1:1,127.0.0.1:2/mymaster", timeout=0.5) as link:
        began = time.monotonic()

        with pytest.raises(RedisConnectionError, match=r"no sentinel of \S+:1,\S+:2 names a master"):
            await link.execute("PING")

        assert time.monotonic() - began < 0.5


async def test_a_master_that_they_do_not_watch_is_named(sentinel: RedisSentinel) -> None:
    async with open_link(sentinel.url.replace("mymaster", "another"), timeout=1) as link:
        with pytest.raises(RedisConnectionError, match="names a master 'another'"):
            await link.execute("PING")


class Liar(asyncio.Protocol):
    """A sentinel that was cut off, and names a server nobody else does; or one that says nothing."""

    def __init__(self, server: RedisServer | None) -> None:
        self._server = server
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._server is not None and self._reader.gets() is not False:
            port = str(self._server.port).encode()
            self._transport.write(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port))


@pytest.mark.parametrize("says_nothing", [False, True])
async def test_one_sentinel_that_knows_better_than_the_others_is_not_believed(
    sentinel: RedisSentinel, private_redis: RedisServer, says_nothing: bool
) -> None:
    loop = asyncio.get_running_loop()
    liar = await loop.create_server(lambda: Liar(None if says_nothing else private_redis), "127.0.0.1", 0)
    port = liar.sockets[0].getsockname()[1]
    _, *others = sentinel.sentinel_ports
    hosts = ",".join(f"127.0.0.1:{at}" for at in (port, *others))
    async with open_link(f"redis-sentinel://{hosts}/mymaster", timeout=1) as link:
        await link.execute("SET", "x", "believed")

    assert sentinel.master.call("GET", "x") == "believed"
    assert private_redis.call("DBSIZE") == 0
    liar.close()


async def test_a_subscription_follows_the_master(private_sentinel: RedisSentinel, link: RedisLink) -> None:
    heard: list[bytes] = []
    confirmed: list[None] = []
    subscription = Subscription(
        private_sentinel.url,
        ["news"],
        on_message=lambda _, payload: heard.append(payload),
        on_subscribed=lambda: confirmed.append(None),
    )
    await subscription.start()
    await subscription.wait_open()
    old = private_sentinel.master

    old.kill9()
    await answered(link)
    await eventually(lambda: len(confirmed) > 1, "the new master")

    async def published() -> bool:
        await link.execute("PUBLISH", "news", "again")
        return b"again" in heard

    await eventually(published, "a message from the new master")
    await subscription.close()


async def test_arq_follows_the_master(private_sentinel: RedisSentinel) -> None:
    pool = arq_pool(private_sentinel.url, timeout=1)
    try:
        await pool.set("x", "1")
        call(private_sentinel.sentinel_ports[0], "SENTINEL", "FAILOVER", "mymaster")

        async def followed() -> bool:
            try:
                await pool.set("x", "2")
            except RedisError:
                return False
            return bool(private_sentinel.master.call("GET", "x") == "2")

        await eventually(followed, "a write at the new master", within=FAILOVER_SECONDS)
    finally:
        await pool.aclose(close_connection_pool=True)
