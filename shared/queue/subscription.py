"""One pub/sub connection of a process, kept open for its whole life.

Messages are hints: whatever was published while it was down is gone, so whoever
listens must be able to look the truth up, and does so when `on_subscribed` fires.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from loguru import logger
from redis.exceptions import RedisError

from shared.queue.redis_link import RespProtocol, handshake_commands, open_connection, pack, redacted

_PING_SECONDS: Final = 5.0
_BACKOFF_CAP_SECONDS: Final = 2.0


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
        self._channels = tuple(channels)
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._protocol: RespProtocol | None = None
        self._lost = asyncio.Event()
        self._ready = asyncio.Event()
        self._confirmed = 0
        self._heard = False
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
        if self._protocol is not None and self._protocol.transport is not None:
            self._protocol.transport.abort()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    await self._open()
                failures = 0
                await self._watch()
                logger.warning("subscription lost", redis=redacted(self._url))
            except (OSError, RedisError, TimeoutError) as exc:
                failures += 1
                if failures == 1:
                    logger.warning(
                        "subscription cannot connect", redis=redacted(self._url), error=type(exc).__name__
                    )
            self._ready.clear()
            pause = min(_BACKOFF_CAP_SECONDS, 0.02 * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _open(self) -> None:
        self._lost.clear()
        self._confirmed = 0
        protocol = await open_connection(self._url, self._on_reply, self._on_lost)
        self._protocol = protocol
        if protocol.transport is None:
            raise ConnectionError("lost while connecting")
        protocol.transport.write(
            b"".join([*handshake_commands(self._url), pack("SUBSCRIBE", *self._channels)])
        )
        ready = asyncio.create_task(self._ready.wait())
        lost = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({ready, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            lost.cancel()
        if not self._ready.is_set():
            raise ConnectionError("refused")

    async def _watch(self) -> None:
        """Until the connection is lost, or has been silent for two pings."""
        silent = 0
        while not self._lost.is_set():
            self._heard = False
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                silent = 0 if self._heard else silent + 1
                protocol = self._protocol
                if protocol is None or protocol.transport is None:
                    return
                if silent >= 2:
                    protocol.transport.abort()
                    return
                protocol.transport.write(pack("PING"))

    def _on_lost(self, protocol: RespProtocol) -> None:
        if protocol is self._protocol:
            self._ready.clear()
            self._lost.set()

    def _on_reply(self, reply: Any) -> None:
        self._heard = True
        if not isinstance(reply, list):
            return  # replies to the handshake; an error closes the connection soon enough
        if reply[0] == b"message":
            self._on_message(reply[1], reply[2])
        elif reply[0] == b"subscribe":
            self._confirmed += 1
            if self._confirmed == len(self._channels):
                self._ready.set()
                self._on_subscribed()
