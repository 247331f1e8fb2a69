"""The head of an answer, byte for byte what uvicorn's own cycle writes, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from api import http_answer
from api.http_protocol import bounded_protocol
from shared.settings import ApiSettings

Headers = list[tuple[bytes, bytes]]
LENGTH = (b"content-length", b"2")


class Server:
    """Answers every request with `status`, `headers` and two bytes."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.headers: Headers = []
        self.raised: list[Exception] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b"" if self.status in {204, 304} or scope["method"] == "HEAD" else b"{}"
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
            await send({"type": "http.response.body", "body": body})
        except Exception as error:
            self.raised.append(error)
            raise

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request + b"\r\nhost: here\r\n\r\n")
        # Whatever is written stands before the answer to this one, which closes the connection.
        writer.write(b"GET /last HTTP/1.0\r\nhost: here\r\n\r\n")
        async with asyncio.timeout(20):
            said = await reader.read()
        writer.close()
        return said


@asynccontextmanager
async def running(protocol: type[HttpToolsProtocol]) -> AsyncIterator[Server]:
    server = Server()
    config = uvicorn.Config(
        server.app,
        interface="asgi3",
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
    )
    config.load()
    state = ServerState()
    listening = await asyncio.get_running_loop().create_server(
        lambda: protocol(config, state, {}), "127.0.0.1", 0
    )
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


@pytest.fixture
async def servers() -> AsyncIterator[tuple[Server, Server]]:
    """uvicorn's, and ours."""
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(running(HttpToolsProtocol)),
            await stack.enter_async_context(running(bounded_protocol(ApiSettings()))),
        )


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [LENGTH]),
        (
            200,
            [(b"content-type", b"a/b"), LENGTH, (b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"")],
        ),
        (429, [LENGTH, (b"x-text", b"a\tb \xe2\x82\xac")]),
        (200, [(b"content-type", b"text/event-stream")]),
        (200, [(b"transfer-encoding", b"chunked")]),
        (200, [LENGTH, (b"connection", b"close")]),
        (200, [LENGTH, LENGTH]),
        (200, [(b"Content-Length", b"2"), (b"X-Upper", b"1")]),
        (204, []),
        (304, [(b"etag", b"x")]),
        (200, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1", b"HEAD / HTTP/1.1"])
async def test_an_answer_is_the_same(
    servers: tuple[Server, Server], request_line: bytes, status: int, headers: Headers
) -> None:
    said = []
    for server in servers:
        server.status, server.headers = status, headers
        said.append([await server.ask(request_line) for _ in range(2)])
        assert server.raised == []

    assert said[0] == said[1]
    assert said[0][0].startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    "bad",
    [
        *((b"x-value", b"a%bb" % bytes([byte])) for byte in (0, 8, 10, 13, 31, 127)),
        (b"x-value", b"a\r\nx-other: b"),
        (b"x-name\r\nx-other", b"1"),
        (b"x name", b"1"),
        (b"x:name", b"1"),
        (b"content-length", b"two"),
        (b"content-length", b"3"),
        (b"content-length", b"1"),
    ],
    ids=str,
)
async def test_what_no_head_may_have_is_an_error_on_both(
    servers: tuple[Server, Server], bad: tuple[bytes, bytes]
) -> None:
    failures = []
    for server in servers:
        server.headers = [bad] if bad[0] == LENGTH[0] else [LENGTH, bad]
        said = await server.ask(b"GET / HTTP/1.1")
        assert b"x-other" not in said
        failures.append([type(error) for error in server.raised[:1]])

    assert failures[0] == failures[1]
    assert failures[0]


async def test_names_are_learned_up_to_a_bound(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_answer, "_known", known := {b"content-length"})
    server = servers[1]
    for first in range(0, 600, 60):
        server.headers = [LENGTH, *((b"x-%d" % n, b"1") for n in range(first, first + 60))]
        assert b"\r\nx-%d: 1\r\n" % (first + 59) in await server.ask(b"GET / HTTP/1.1")

    assert len(known) == 512
