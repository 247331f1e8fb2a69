"""One pub/sub connection of a process, kept open for its whole life.

Messages are hints: whatever was published while it was down is gone, so whoever
listens must be able to look the truth up, and does so when `on_subscribed` fires.
The nodes of a cluster tell each other what is published, so any of them will do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from loguru import logger
from redis.exceptions import RedisError

from shared.queue.links import whereabouts
from shared.queue.redis_link import RespProtocol, handshake_commands, open_connection, pack, redacted

_PING_SECONDS: Final = 5.0
_FIND_SECONDS: Final = 1.0
"""How long sentinels or nodes of a cluster may take to say where to connect."""
_BACKOFF_CAP_SECONDS: Final = 2.0


class _Connection:
    """One connection, or the try to get it. What it says counts while it is the current one."""

    def __init__(self) -> None:
        self.protocol: RespProtocol | None = None
        self.confirmed = 0
        """Channels the server has confirmed."""
        self.heard = False
        self.settled = asyncio.Event()
        """Every channel is confirmed, or the connection is lost."""
        self.lost = asyncio.Event()

    def write(self, data: bytes) -> None:
        if self.protocol is None or self.protocol.transport is None:
            raise ConnectionError("connection to Redis lost")
        self.protocol.transport.write(data)

    def abort(self) -> None:
        if self.protocol is not None and self.protocol.transport is not None:
            self.protocol.transport.abort()


class Subscription:
    """`on_message(channel, payload)` runs inside the socket callback: it must be quick and never raise."""

    def __init__(
        self,
        url: str,
        channels: Sequence[str],
        *,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._where = whereabouts(url, timeout=_FIND_SECONDS)
        self._channels = tuple(channels)
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._current: _Connection | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._ready.is_set()

    async def start(self) -> None:
        """Returns at once; `wait_open` tells when the server has confirmed."""
        self._task = asyncio.create_task(self._run(), name="redis-subscription")

    async def wait_open(self) -> None:
        await self._ready.wait()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    connection = await self._open()
                failures = 0
                await self._watch(connection)
                logger.warning("subscription lost", redis=redacted(self._url))
            except (OSError, RedisError, TimeoutError) as exc:
                failures += 1
                if failures == 1:
                    logger.warning(
                        "subscription cannot connect", redis=redacted(self._url), error=type(exc).__name__
                    )
            finally:
                # A frozen server subscribes, once it runs again, every connection left open to it.
                self._drop()
            pause = min(_BACKOFF_CAP_SECONDS, 0.02 * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _open(self) -> _Connection:
        self._current = connection = _Connection()
        url = await self._where.server_url()
        connection.protocol = await open_connection(
            url,
            lambda reply: self._on_reply(connection, reply),
            lambda _: self._on_lost(connection),
        )
        connection.write(b"".join([*handshake_commands(url), pack("SUBSCRIBE", *self._channels)]))
        await connection.settled.wait()
        if connection.lost.is_set():
            raise ConnectionError("refused")
        return connection

    async def _watch(self, connection: _Connection) -> None:
        """Until the connection is lost, or has been silent for two pings."""
        silent = 0
        while not connection.lost.is_set():
            connection.heard = False
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    await connection.lost.wait()
            except TimeoutError:
                silent = 0 if connection.heard else silent + 1
                if silent >= 2:
                    return
                connection.write(pack("PING"))

    def _drop(self) -> None:
        connection, self._current = self._current, None
        self._ready.clear()
        if connection is not None:
            connection.abort()

    def _on_lost(self, connection: _Connection) -> None:
        connection.lost.set()
        connection.settled.set()
        if connection is self._current:
            self._ready.clear()

    def _on_reply(self, connection: _Connection, reply: Any) -> None:
        if connection is not self._current:
            return
        connection.heard = True
        if not isinstance(reply, list):
            return  # replies to the handshake; an error closes the connection soon enough
        if reply[0] == b"message":
            self._on_message(reply[1], reply[2])
        elif reply[0] == b"subscribe":
            connection.confirmed += 1
            if connection.confirmed == len(self._channels):
                connection.settled.set()
                self._ready.set()
                self._on_subscribed()
