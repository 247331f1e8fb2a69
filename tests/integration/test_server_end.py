"""A server that stops answers whoever reached its listener, and refuses whoever comes later."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from api import server as server_module
from api.http_protocol import BoundedHttpToolsProtocol, bounded_protocol
from api.main import AdminServer
from shared.settings import ApiSettings
from tests.fakes.eventually import eventually

CALLERS = 50
REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\n"

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Server(AdminServer):
    """`meanwhile`: what happens in the very step in which it begins to end, its loop held."""

    def __init__(self, *, drain_seconds: float = 10.0) -> None:
        settings = ApiSettings(drain_seconds=drain_seconds)
        self.told = asyncio.Event()
        """Its connections were asked to end."""

        def shutdown(protocol: BoundedHttpToolsProtocol) -> None:
            BoundedHttpToolsProtocol.shutdown(protocol)
            self.told.set()

        super().__init__(
            uvicorn.Config(
                app,
                host="127.0.0.1",
                port=0,
                http=bounded_protocol(settings, head_seconds=60.0, shutdown=shutdown),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=int(drain_seconds),
            )
        )
        self._callers: list[socket.socket] = []
        self.began = asyncio.Event()
        self.ending = asyncio.Event()
        self.meanwhile: Callable[[], None] = lambda: None
        self.address = ("127.0.0.1", 0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.address = self.servers[0].sockets[0].getsockname()
        self.began.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.meanwhile()
        self.ending.set()
        await super().shutdown(sockets)

    def connect(self) -> socket.socket:
        self._callers.append(socket.create_connection(self.address, timeout=10))
        return self._callers[-1]

    def hang_up(self) -> None:
        for caller in self._callers:
            caller.close()

    async def end(self) -> None:
        self.should_exit = True
        await self.ending.wait()

    @property
    def is_refusing(self) -> bool:
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        return False


def run(
    new_loop: NewLoop, scenario: Callable[[Server], Awaitable[None]], server: type[Server] = Server
) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            one = server()
            serving = asyncio.create_task(one.serve())
            await one.began.wait()
            try:
                await scenario(one)
            finally:
                one.hang_up()
                one.should_exit = True
                await serving

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def all_of(sock: socket.socket) -> bytes:
    """What comes until the other side closes; b"reset" where it does that rudely."""
    said = b""
    try:
        while part := sock.recv(65_536):
            said += part
    except ConnectionError:
        return b"reset"
    return said


def answer_of(sock: socket.socket) -> bytes:
    """The next one; the connection stays."""
    said = b""
    while not said.endswith(b"\r\n\r\nok"):
        said += sock.recv(65_536)
    return said


async def heard(sock: socket.socket) -> bytes:
    with sock:
        return await asyncio.to_thread(all_of, sock)


@pytest.fixture
def kernel_without_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_SO_ATTACH_FILTER", 9_999)


async def _everybody_in_the_backlog_is_answered(server: Server) -> None:
    callers: list[socket.socket] = []

    def connect_and_ask() -> None:
        for _ in range(CALLERS):
            callers.append(server.connect())
            callers[-1].sendall(REQUEST)

    server.meanwhile = connect_and_ask
    await server.end()
    answers = await asyncio.gather(*map(heard, callers))

    assert len(answers) == CALLERS
    assert {answer[: len(OK)] for answer in answers} == {OK}
    assert {answer.count(b"connection: close\r\n") for answer in answers} == {1}
    assert server.is_refusing


@LOOPS
def test_everybody_who_came_while_the_loop_was_held_is_answered(new_loop: NewLoop) -> None:
    run(new_loop, _everybody_in_the_backlog_is_answered)


@LOOPS
@pytest.mark.usefixtures("kernel_without_filters")
def test_a_backlog_is_taken_in_the_step_that_closes_the_listener(new_loop: NewLoop) -> None:
    run(new_loop, _everybody_in_the_backlog_is_answered)


@LOOPS
def test_callers_that_never_cease_are_answered_or_refused(new_loop: NewLoop) -> None:
    def call_until_refused(server: Server) -> Counter[bytes]:
        seen: Counter[bytes] = Counter()
        while True:
            try:
                sock = server.connect()
            except ConnectionRefusedError:
                return seen
            with sock:
                try:
                    sock.sendall(REQUEST)
                except ConnectionError:
                    seen[b"reset"] += 1
                else:
                    seen[all_of(sock)[: len(OK)]] += 1

    async def scenario(server: Server) -> None:
        server.keep_no_connection()
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(8) as threads:
            calling = [loop.run_in_executor(threads, call_until_refused, server) for _ in range(8)]
            await server.end()
            seen = sum(await asyncio.gather(*calling), Counter[bytes]())

        assert set(seen) == {OK}

    run(new_loop, scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="what filters a listener's packets is Linux's own")
@LOOPS
def test_a_handshake_that_begins_while_the_listener_closes_is_refused_before_anything_is_sent(
    new_loop: NewLoop,
) -> None:
    async def scenario(server: Server) -> None:
        with socket.socket() as late:
            late.setblocking(False)
            await server.end()
            assert server.servers[0].is_serving(), "it waits for handshakes that have begun"

            with pytest.raises(ConnectionRefusedError):
                await asyncio.get_running_loop().sock_connect(late, server.address)

    run(new_loop, scenario)


@LOOPS
def test_a_connection_that_has_not_asked_yet_may_still_do_so(new_loop: NewLoop) -> None:
    async def scenario(server: Server) -> None:
        early, late = server.connect(), server.connect()
        early.sendall(REQUEST[:20])
        await until_connected(server, 2)
        await server.end()
        await server.told.wait()
        late.sendall(REQUEST)
        early.sendall(REQUEST[20:])

        for caller in (early, late):
            assert (await heard(caller)).startswith(OK)

    run(new_loop, scenario)


@LOOPS
@pytest.mark.usefixtures("kernel_without_filters")
def test_a_kept_connection_whose_next_request_is_here_is_not_idle(new_loop: NewLoop) -> None:
    async def scenario(server: Server) -> None:
        whole, half = callers = server.connect(), server.connect()
        for caller in callers:
            caller.sendall(REQUEST)
            await asyncio.to_thread(answer_of, caller)

        def ask_again() -> None:
            whole.sendall(REQUEST)
            half.sendall(REQUEST[:20])

        server.meanwhile = ask_again
        await server.end()
        await server.told.wait()
        half.sendall(REQUEST[20:])

        for caller in callers:
            assert (await heard(caller)).startswith(OK)

    run(new_loop, scenario)


@LOOPS
def test_a_connection_that_says_nothing_holds_up_the_end_for_no_longer_than_a_moment(
    new_loop: NewLoop,
) -> None:
    class Brief(Server):
        def __init__(self) -> None:
            super().__init__(drain_seconds=0.2)
            self.config.timeout_graceful_shutdown = 20

    async def scenario(server: Server) -> None:
        silent, idle = server.connect(), server.connect()
        idle.sendall(REQUEST)
        assert (await asyncio.to_thread(answer_of, idle)).startswith(OK)
        await until_connected(server, 2)
        server.should_exit = True

        assert [await heard(caller) for caller in (silent, idle)] == [b"", b""]

    run(new_loop, scenario, Brief)


async def until_connected(server: Server, count: int) -> None:
    await eventually(lambda: len(server.server_state.connections) == count, "connected")
