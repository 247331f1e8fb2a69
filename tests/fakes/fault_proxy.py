"""A TCP proxy in front of a server, to make the network between slow, deaf or lossy.

    async with FaultProxy(redis.port) as proxy:
        RedisLink(f"redis://127.0.0.1:{proxy.port}/0", timeout=1)
        proxy.delay_seconds = 0.2

It runs in the test's own loop. What it holds back keeps its order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from tests.fakes.server_process import free_port

_READ: Final = 65_536


class FaultProxy:
    """`delay_seconds`: how late whatever the server says arrives."""

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self.delay_seconds = 0.0
        self.accepted = 0
        """Connections so far."""
        self._server_port = server_port
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loses_reply_to: Callable[[bytes], bool] | None = None
        self._passes = asyncio.Event()
        self._passes.set()

    @property
    def open_connections(self) -> int:
        return len(self._ends) // 2

    def blackhole(self) -> None:
        """From now on nothing passes in either direction, and nobody is told."""
        self._passes.clear()

    def mend(self) -> None:
        """What was held back arrives now."""
        self.delay_seconds = 0.0
        self._passes.set()

    def cut(self) -> None:
        """Every connection there is, in the middle of whatever it says."""
        for end in list(self._ends):
            end.transport.abort()

    def lose_reply(self, to: Callable[[bytes], bool]) -> None:
        """The next piece of requests of which `to` is true reaches the server; then its connection is
        cut instead of passing on the reply.
        """
        self._loses_reply_to = to

    @property
    def has_lost_reply(self) -> bool:
        return self._loses_reply_to is None

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def accept(self) -> None:
        """Take connections (again)."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def refuse(self) -> None:
        """Cut every connection there is, and take no more."""
        assert self._server is not None
        self._server.close()
        self.cut()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, to_server)
        self._ends.update(ends)
        connection = _Connection()
        for pipe in (
            self._requests(connection, reader, to_server),
            self._replies(connection, from_server, writer),
        ):
            task = asyncio.create_task(self._until_either_ends(pipe, ends), name="fault-proxy")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _until_either_ends(
        self, pipe: Coroutine[Any, Any, None], ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    ) -> None:
        try:
            await pipe
        except OSError:
            pass  # cut, by us or by either side
        finally:
            for end in ends:
                end.transport.abort()
                self._ends.discard(end)

    async def _requests(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_READ):
            await self._passes.wait()
            if self._loses_reply_to is not None and self._loses_reply_to(data):
                self._loses_reply_to = None
                connection.is_doomed = True
            writer.write(data)
            await writer.drain()

    async def _replies(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        passing = asyncio.create_task(self._pass_on(late, writer), name="fault-proxy")
        try:
            while data := await reader.read(_READ):
                if connection.is_doomed:
                    return
                late.put_nowait((time.monotonic() + self.delay_seconds, data))
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    async def _pass_on(self, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._passes.wait()
            writer.write(data)
            await writer.drain()


class _Connection:
    is_doomed = False
