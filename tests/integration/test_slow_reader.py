"""A caller that stops reading its answer is cut off in time; one that reads slowly is not."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

import psutil
import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from api.http_protocol import bounded_protocol
from api.middleware.edge import Edge
from shared.settings import ApiSettings
from tests.fakes.eventually import eventually
from tests.fixtures.stack import FreshStack
from tests.unit.observability.log_lines import LogLines, captured

SLOW_SECONDS = 0.4
SETTINGS = ApiSettings(slow_reader_seconds=SLOW_SECONDS)
SIZES = {"/v1/large": 16 * 1024 * 1024, "/v1/medium": 1024 * 1024, "/v1/small": 48 * 1024}
CHUNK = b"data: " + b"x" * 4096 + b"\n\n"

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/v1/stream` goes on until its caller is gone; the others are answered in one piece."""
    size = SIZES.get(scope["path"])
    if size is not None:
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})
        return
    await receive()
    gone = asyncio.ensure_future(receive())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not gone.done():
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await asyncio.sleep(0)


class Server:
    """`sockets_hold`: bytes of an answer that the kernel takes on this side."""

    def __init__(self, *, sockets_hold: int) -> None:
        protocol = bounded_protocol(SETTINGS)
        self.state = ServerState()
        config = uvicorn.Config(
            Edge(app, settings=SETTINGS),
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        config.load()
        self._factory = lambda: protocol(config, self.state, {})
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sockets_hold)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[socket.socket]:
        """A connection to it that reads only what it is told to."""
        listening = await asyncio.get_running_loop().create_server(self._factory, sock=self._sock)
        try:
            with narrow_socket(self._sock.getsockname()[1]) as sock:
                yield sock
        finally:
            listening.close()
            for connection in list(self.state.connections):
                connection.transport.abort()
            await asyncio.sleep(0.05)  # uvloop hangs when it closes with a handle half closed


def narrow_socket(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def get(path: str, *, close: bool = False) -> bytes:
    ending = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{ending}\r\n".encode()


async def cut_off_after(request: bytes) -> float:
    """Seconds until the connection of a caller that reads nothing, and whatever served it, are gone."""
    server = Server(sockets_hold=8192)
    async with server.connected() as sock:
        began = time.monotonic()
        sock.send(request)
        await eventually(lambda: server.state.connections, "connected", every=0.002)
        await eventually(lambda: not server.state.connections, "closed", within=10, every=0.01)
        seconds = time.monotonic() - began
        await eventually(lambda: not server.state.tasks, "its task ended", within=1)
        return seconds


def run(new_loop: NewLoop, scenario: Callable[[], Awaitable[float | int]]) -> tuple[float | int, LogLines]:
    async def main() -> float | int:
        return await scenario()

    with ExitStack() as stack:
        lines = stack.enter_context(captured())
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_loop))
        return runner.run(main()), lines


@LOOPS
@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/v1/large"),
        get("/v1/large", close=True),
        get("/v1/small", close=True),
        get("/v1/stream"),
        get("/v1/large") + get("/v1/stream"),
    ],
    ids=["large", "large, closing", "smaller than our buffer, closing", "stream", "sent ahead"],
)
def test_a_caller_that_stopped_reading_kept_its_connection_for_ever(
    new_loop: NewLoop, request_bytes: bytes
) -> None:
    seconds, lines = run(new_loop, lambda: cut_off_after(request_bytes))

    # Closed at all is what `cut_off_after` waits for; no sooner than said is what is left to hold.
    assert seconds >= SLOW_SECONDS
    assert [line for line in lines.events() if line["level"] not in ("INFO", "DEBUG")] == []


async def read_slowly(request: bytes) -> int:
    server = Server(sockets_hold=8192)
    loop = asyncio.get_running_loop()
    read = 0
    async with server.connected() as sock:
        await loop.sock_sendall(sock, request)
        while part := await loop.sock_recv(sock, 16 * 1024):
            read += len(part)
            await asyncio.sleep(0.01)
    return read


@LOOPS
def test_a_caller_that_reads_slowly_gets_everything(new_loop: NewLoop) -> None:
    began = time.monotonic()

    read, _ = run(new_loop, lambda: read_slowly(get("/v1/medium", close=True)))

    assert read > SIZES["/v1/medium"]
    assert time.monotonic() - began > 1.5 * SLOW_SECONDS


async def test_a_stream_whose_reader_stopped_was_kept_with_its_job(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_API__SLOW_READER_SECONDS": "1"})
    cue = {"chunks": 4000, "chunk_text": "x" * 8000, "between_chunks_ms": 1}
    body = json.dumps(
        {
            "model": "gpt-4o-mini",
            "stream": True,
            "messages": [{"role": "user", "content": f"!script {json.dumps(cue)}\nHello"}],
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {stack.api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    api = psutil.Process(stack.apis[0].pid)
    with narrow_socket(stack.apis[0].port) as sock:
        ours = sock.getsockname()[1]

        def connected() -> bool:
            return any(c.raddr and c.raddr.port == ours for c in api.net_connections("tcp"))

        sock.send(head.encode() + body)
        await eventually(connected, "connected")
        async with stack.client() as client:

            async def waiting() -> int:
                health = (await client.get("/health")).json()
                return int(health["inference"]["waiting_requests"])

            await eventually(waiting, "the stream is open")
            await eventually(lambda: not connected(), "closed", within=10)

            async def forgotten() -> bool:
                return await waiting() == 0

            await eventually(forgotten, "the reply is forgotten", within=5)

    assert [event for event in stack.apis[0].events() if event["level"] in ("ERROR", "CRITICAL")] == []
