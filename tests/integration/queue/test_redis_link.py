"""One shared connection: every caller gets its own reply, or an error, in time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import hiredis
import pytest
import uvloop
from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.queue.redis_link import RedisLink, RespProtocol, ServerLink
from shared.queue.script_calls import Scripts
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import open_link


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Of one server: all of it is about its one connection."""
    return redis_server.url


class WriteCounter:
    """A transport that remembers what was written to it in one piece."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.inner = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.inner.write(data)

    def abort(self) -> None:
        self.inner.abort()


@pytest.fixture
def transports(monkeypatch: pytest.MonkeyPatch) -> list[WriteCounter]:
    """Those of the connections opened from now on."""
    opened: list[WriteCounter] = []
    connection_made = RespProtocol.connection_made

    def wrapped(self: RespProtocol, transport: asyncio.Transport) -> None:
        opened.append(WriteCounter(transport))
        connection_made(self, opened[-1])  # type: ignore[arg-type]  # has the methods that are used

    monkeypatch.setattr(RespProtocol, "connection_made", wrapped)
    return opened


async def test_commands_of_one_tick_leave_in_one_write(
    transports: list[WriteCounter], redis_url: str
) -> None:
    async with open_link(redis_url) as link:
        await link.execute("PING")
        (transport,) = transports
        transport.writes.clear()

        answers = await asyncio.gather(*(link.execute("ECHO", str(i)) for i in range(100)))

        assert answers == [str(i).encode() for i in range(100)]
        assert len(transport.writes) == 1


async def test_a_command_on_an_idle_link_leaves_within_the_tick(
    transports: list[WriteCounter], redis_url: str
) -> None:
    async with open_link(redis_url) as link:
        await link.execute("PING")
        (transport,) = transports
        transport.writes.clear()

        call = asyncio.ensure_future(link.execute("PING"))
        await asyncio.sleep(0)  # the call starts
        await asyncio.sleep(0)  # the end of that tick

        assert len(transport.writes) == 1
        await call


async def test_replies_come_in_the_order_of_the_commands(link: RedisLink) -> None:
    order: list[int] = []

    async def call(i: int) -> None:
        assert await link.execute("INCR", "n") == i + 1
        order.append(i)

    await asyncio.gather(*(call(i) for i in range(1_000)))

    assert order == list(range(1_000))


async def test_a_refused_command_is_an_answer_among_others(link: RedisLink) -> None:
    await link.execute("SET", "text", "x")

    first, refused, last = await link.execute_many([("GET", "text"), ("INCR", "text"), ("STRLEN", "text")])

    assert (first, last) == (b"x", 1)
    assert isinstance(refused, ResponseError)


async def test_cancelled_callers_never_shift_replies(link: RedisLink) -> None:
    rng = random.Random(20_261_121)
    wrong = 0

    async def call(i: int) -> None:
        nonlocal wrong
        wrong += await link.execute("ECHO", str(i)) != str(i).encode()

    for burst in range(100):
        calls = [asyncio.ensure_future(call(burst * 100 + i)) for i in range(100)]
        for _ in range(rng.randrange(4)):  # some before they were sent, some before they were answered
            await asyncio.sleep(0)
        cancelled = [call for call in calls if rng.random() < 0.5 and call.cancel()]
        await asyncio.gather(*calls, return_exceptions=True)
        assert all(call.cancelled() for call in cancelled)

    assert wrong == 0


class FlakyServer(asyncio.Protocol):
    """Echoes what it is sent, and aborts connections at every stage of their life."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's class.
        self._transport = transport = cast(asyncio.Transport, transport)
        roll = self._rng.random()
        if roll < 0.4:
            transport.abort()
        elif roll < 0.6:
            asyncio.get_running_loop().call_soon(transport.abort)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            if self._rng.random() < 0.02:
                self._transport.abort()
                return
            self._transport.write(b"$%d\r\n%b\r\n" % (len(command[1]), command[1]))


async def ask_a_flaky_server(rng: random.Random) -> tuple[int, int, list[RedisError]]:
    """Right answers, wrong ones, and errors."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: FlakyServer(rng), "127.0.0.1", 0)
    right, wrong = 0, 0
    errors: list[RedisError] = []

    async def caller(name: int, link: RedisLink) -> None:
        nonlocal right, wrong
        for i in range(300):
            text = f"{name}.{i}"
            try:
                answer = await link.execute("ECHO", text)
            except RedisError as exc:
                errors.append(exc)
            else:
                right += answer == text.encode()
                wrong += answer != text.encode()

    async with open_link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0") as link:
        await asyncio.gather(*(caller(name, link) for name in range(8)))
    server.close()
    return right, wrong, errors


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_lost_while_its_first_caller_waited_gave_every_caller_the_reply_of_another(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        right, wrong, errors = runner.run(ask_a_flaky_server(random.Random(7)))

    assert wrong == 0
    assert right > 500
    # And a caller whose command never left is told at once, not when its reply is late.
    assert not [error for error in errors if isinstance(error, RedisTimeoutError)]


async def test_a_frozen_server_is_a_timeout_and_answers_again_once_it_runs(
    redis_server: RedisServer,
) -> None:
    async with open_link(redis_server.url, timeout=0.1) as link:
        await link.execute("SET", "x", "1")
        redis_server.sigstop()
        try:
            with pytest.raises(RedisTimeoutError):
                await link.execute("SET", "x", "2")
            # A new connection is accepted by the kernel, and still nobody answers.
            with pytest.raises(RedisTimeoutError):
                await link.execute("GET", "x")
        finally:
            redis_server.sigcont()

    async with open_link(redis_server.url) as link:
        assert await link.execute("GET", "x") in {b"1", b"2"}


async def test_every_pending_call_fails_when_the_server_is_killed_and_the_next_reconnects(
    private_redis: RedisServer,
) -> None:
    async with open_link(private_redis.url) as link:
        await link.execute("SET", "kept", "yes")
        blocked = [asyncio.ensure_future(link.execute("BLPOP", "nothing", 0)) for _ in range(3)]
        await asyncio.sleep(0)

        private_redis.kill9()

        answers = await asyncio.gather(*blocked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [RedisConnectionError] * 3
        with pytest.raises(RedisConnectionError, match="cannot connect"):
            await link.execute("PING")
        private_redis.restart()
        assert await link.execute("PING") == b"PONG"
        assert link.connections == 2


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Wants a password, listens on a socket file too, and takes three clients."""
    options = ("--requirepass", "let me in", "--unixsocket", str(tmp_path / "redis.sock"))
    server = RedisServer(appendonly=False, options=options)
    server.start()
    yield server
    server.stop(forget=True)


def with_password(server: RedisServer, password: str, *, database: int = 0) -> str:
    return f"redis://:{password}@127.0.0.1:{server.port}/{database}"


async def test_a_wrong_password_says_so_and_nothing_of_the_password(guarded_redis: RedisServer) -> None:
    async with open_link(with_password(guarded_redis, "wrong-canary")) as link:
        with pytest.raises(RedisConnectionError, match="AuthenticationError") as raised:
            await link.execute("PING")

        assert "canary" not in repr(raised.value)


async def test_without_a_password_the_server_refuses_each_command(guarded_redis: RedisServer) -> None:
    async with open_link(guarded_redis.url) as link:
        with pytest.raises(AuthenticationError):
            await link.execute("PING")


async def test_a_right_password_opens(guarded_redis: RedisServer) -> None:
    async with open_link(with_password(guarded_redis, "let%20me%20in")) as link:
        assert await link.execute("PING") == b"PONG"


async def test_a_unix_socket_and_a_database_number(guarded_redis: RedisServer, tmp_path: Path) -> None:
    url = f"unix://:let%20me%20in@{tmp_path / 'redis.sock'}?db=3"
    async with open_link(url) as link, open_link(with_password(guarded_redis, "let%20me%20in")) as other:
        await link.execute("SET", "here", "3")

        assert await other.execute("EXISTS", "here") == 0
        await other.execute("SELECT", "3")
        assert await other.execute("GET", "here") == b"3"


async def test_commands_issued_during_a_handshake_that_failed_ran_on_database_0(
    guarded_redis: RedisServer,
) -> None:
    right = with_password(guarded_redis, "let%20me%20in")
    async with open_link(right.replace("/0", "/99")) as link, open_link(right) as database_0:
        first = asyncio.ensure_future(link.execute("PING"))
        others = [asyncio.ensure_future(_after(ticks, link, "SET", f"k{ticks}", "x")) for ticks in range(40)]

        answers = await asyncio.gather(first, *others, return_exceptions=True)

        assert {type(answer) for answer in answers} == {RedisConnectionError}
        assert await database_0.execute("DBSIZE") == 0


async def _after(ticks: int, link: RedisLink, *command: str) -> object:
    for _ in range(ticks):
        await asyncio.sleep(0)
    return await link.execute(*command)


async def test_a_server_that_takes_no_more_clients_counts_as_away(guarded_redis: RedisServer) -> None:
    url = with_password(guarded_redis, "let%20me%20in")
    async with open_link(url) as link, open_link(url) as one_too_many:
        await link.execute("CONFIG", "SET", "maxclients", 1)

        with pytest.raises(RedisConnectionError):
            await one_too_many.execute("PING")


async def test_a_closed_link_refuses(redis_url: str) -> None:
    link = ServerLink(redis_url, timeout=5)
    await link.execute("PING")

    await link.close()

    with pytest.raises(RedisConnectionError, match="closed"):
        await link.execute("PING")


async def test_scripts_are_loaded_again_after_a_flush(link: RedisLink) -> None:
    scripts = Scripts(link)
    assert await scripts.call("attach", ["hr:{0}:job:none"], "acme", "") == []
    await link.execute("SCRIPT", "FLUSH")

    answers = await asyncio.gather(
        *(scripts.call("attach", ["hr:{0}:job:none"], "acme", "") for _ in range(20))
    )

    assert answers == [[]] * 20


async def test_scripts_are_loaded_again_after_a_restart(private_redis: RedisServer) -> None:
    async with open_link(private_redis.url) as link:
        scripts = Scripts(link)
        await scripts.load()
        private_redis.restart()
        with pytest.raises(RedisConnectionError):
            await link.execute("PING")

        assert await scripts.call("attach", ["hr:{0}:job:none"], "acme", "") == []


async def test_a_caller_whose_scripts_were_forgotten_right_after_they_were_loaded_got_a_key_error(
    link: RedisLink,
) -> None:
    scripts = Scripts(link)
    load = scripts.load

    async def load_and_forget() -> None:
        await load()
        scripts._shas.clear()  # as the answer of another node does, to another caller

    scripts.load = load_and_forget  # type: ignore[method-assign]  # the race, made certain

    assert await scripts.call("attach", ["hr:{0}:job:none"], "acme", "") == []


async def test_an_unknown_sha_is_told_from_other_errors(link: RedisLink) -> None:
    with pytest.raises(NoScriptError):
        await link.execute("EVALSHA", "0" * 40, 0)


@pytest.fixture
async def replica(redis_url: str, link: RedisLink) -> AsyncIterator[RedisLink]:
    """The same server, made a replica of nobody."""
    await link.execute("REPLICAOF", "127.0.0.1", 1)
    yield link
    await link.execute("REPLICAOF", "NO", "ONE")


async def test_a_write_inside_a_script_on_a_replica_is_told_as_read_only(replica: RedisLink) -> None:
    with pytest.raises(ReadOnlyError):
        await replica.execute("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, "k")


async def test_a_write_inside_a_script_on_a_full_server_is_told_as_out_of_memory(link: RedisLink) -> None:
    await link.execute("CONFIG", "SET", "maxmemory", 1)

    with pytest.raises(OutOfMemoryError):
        await link.execute("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, "k")
