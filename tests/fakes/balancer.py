"""A load balancer as plain as they come: one connection a request, to whoever is ready.

Asks each server for /health/ready all the time. A connection that is refused is tried
elsewhere; nothing else is, since what was sent may have run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

PROBE_SECONDS: Final = 0.1
NOTICED_SECONDS: Final = 3 * PROBE_SECONDS
"""How soon it sends nothing more to a server that is not ready."""
_HEALTH_TIMEOUT: Final = 2.0
_UNAVAILABLE: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass(eq=False)
class _Server:
    port: int
    is_ready: bool = False
    probe: asyncio.Task[None] | None = None


@dataclass(eq=False)
class Balancer:
    url: str = ""
    retried: int = 0
    """Requests that the first server tried would not take."""
    unserved: int = 0
    """Requests for which nobody was ready."""
    _servers: dict[int, _Server] = field(default_factory=dict)
    _turn: int = 0
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    def add(self, port: int) -> None:
        server = self._servers[port] = _Server(port)
        server.probe = asyncio.create_task(_keep_probing(server), name=f"probe-{port}")

    def remove(self, port: int) -> None:
        """It has ended. Servers that only stop need not be told of: they are not ready."""
        server = self._servers.pop(port)
        if server.probe is not None:
            server.probe.cancel()

    @property
    def ready(self) -> list[int]:
        return [server.port for server in self._servers.values() if server.is_ready]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._open.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
        lengths = [int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")]
        body = await reader.readexactly(sum(lengths))
        upstream = await self._connect()
        if upstream is None:
            self.unserved += 1
            writer.write(_UNAVAILABLE)
            return
        answer, sender = upstream
        sender.write(b"\r\n".join([*lines, b"connection: close", b"", b""]) + body)
        leaving = asyncio.create_task(_close_when_gone(reader, sender))
        try:
            while data := await answer.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            leaving.cancel()
            sender.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        self._turn += 1
        ready = self.ready
        first = self._turn % len(ready) if ready else 0
        for port in ready[first:] + ready[:first]:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                self.retried += 1
        return None


@asynccontextmanager
async def balancing(*ports: int) -> AsyncIterator[Balancer]:
    """In front of these servers, once all of them are ready."""
    balancer = Balancer()
    listener = await asyncio.start_server(balancer.serve, "127.0.0.1", 0, backlog=4096)
    balancer.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    for port in ports:
        balancer.add(port)
    try:
        yield balancer
    finally:
        for port in list(balancer._servers):
            balancer.remove(port)
        listener.close()
        for task in balancer._open:
            task.cancel()
        await asyncio.gather(*balancer._open, return_exceptions=True)


async def _close_when_gone(reader: asyncio.StreamReader, sender: asyncio.StreamWriter) -> None:
    """Whoever asked has left: so does the balancer."""
    with contextlib.suppress(OSError):
        while await reader.read(65_536):
            pass
    sender.transport.abort()


async def _keep_probing(server: _Server) -> None:
    while True:
        server.is_ready = await _is_ready(server.port)
        await asyncio.sleep(PROBE_SECONDS)


async def _is_ready(port: int) -> bool:
    try:
        async with asyncio.timeout(_HEALTH_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /health/ready HTTP/1.1\r\nhost: balancer\r\nconnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False
