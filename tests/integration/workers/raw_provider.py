"""A provider that is nothing but a socket: each test writes the bytes it answers with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

DONE = b"data: [DONE]\n\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
COMPLETION = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hello back"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)


def answer(body: bytes = COMPLETION, *, head: bytes = JSON_HEAD) -> bytes:
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def error(status: int, *, headers: bytes = b"", body: bytes = b'{"error":{"message":"no"}}') -> bytes:
    return b"HTTP/1.1 %d No\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)


def event(content: str = "tick ", *, finish_reason: str = "null", choice: int = 0) -> bytes:
    return (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        b'[{"index":%d,"delta":{"content":"%b"},"finish_reason":%b}]}\n\n'
    ) % (choice, content.encode(), finish_reason.encode())


STOP_EVENT = event("", finish_reason='"stop"')


def chunk(data: bytes) -> bytes:
    """In HTTP/1.1 chunked coding; `chunk(b"")` ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(eq=False)
class Exchange:
    """One connection of the worker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""
    body: bytes = b""
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """The worker closed its end."""

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k}

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def until_closed(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass
        self.closed.set()


Behaviour = Callable[[Exchange], Awaitable[None]]


class RawProvider:
    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.exchanges: list[Exchange] = []
        self._arrived = asyncio.Condition()
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def exchange(self, number: int = 0) -> Exchange:
        """The request number `number` (0-based), once it has arrived whole."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.exchanges) > number)
        return self.exchanges[number]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        exchange = Exchange(reader, writer)
        try:
            exchange.head = await reader.readuntil(b"\r\n\r\n")
            exchange.body = await reader.readexactly(int(exchange.headers.get("content-length", 0)))
        except asyncio.IncompleteReadError:
            return False
        async with self._arrived:
            self.exchanges.append(exchange)
            exchange.requested.set()
            self._arrived.notify_all()
        await self._behave(exchange)
        return not writer.is_closing()


@contextlib.asynccontextmanager
async def serving(behave: Behaviour) -> AsyncIterator[RawProvider]:
    provider = RawProvider(behave)
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()


def sends(*parts: bytes, close: bool = True) -> Behaviour:
    """Answers each request with these bytes and closes, or keeps the connection for the next."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(*parts)
        if close:
            exchange.writer.close()

    return behave


def sends_then_hangs(*parts: bytes) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(*parts)
        await exchange.until_closed()

    return behave
