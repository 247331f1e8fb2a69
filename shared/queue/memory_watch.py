"""Whether Redis has room for new work: refused above a share of `maxmemory`, so that running work can end.

A full server refuses every write but those that end jobs, those of the ledger and of key caches too.
The share is looked up each second, not for each request: that costs a request nothing, and what is
accepted between two looks is far less than the room that is left.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from loguru import logger
from redis.exceptions import RedisError

from shared.errors import QueueFull
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings

LOOK_SECONDS: Final = 1.0
RETRY_AFTER_SECONDS: Final = 5.0
_FIELD: Final = re.compile(rb"^(used_memory|maxmemory):(\d+)\r?$", re.MULTILINE)


class MemoryWatch:
    def __init__(self, link: RedisLink, settings: QueueSettings) -> None:
        self._link = link
        self._limit = settings.max_memory_percent
        self._percent = 0
        self.used_bytes = 0
        self.max_bytes = 0
        """Of the fullest master; 0 where there is no limit."""

    def require_room(self) -> None:
        """Raises QueueFull."""
        if self._percent >= self._limit:
            raise QueueFull(
                "The queue's memory is nearly full, so that no new work is taken.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )

    async def look(self) -> None:
        """Raises RedisError; what was seen before then stands. Of a cluster, its fullest master counts."""
        answers = await self._link.execute_everywhere("INFO", "memory")
        found = max((_facts(answer) for answer in answers), key=lambda of: (_percent(*of), of))
        self.used_bytes, self.max_bytes = found
        before, self._percent = self._percent, _percent(*found)
        if (before >= self._limit) != (self._percent >= self._limit):
            say = logger.error if self._percent >= self._limit else logger.info
            say("redis memory", percent=self._percent, refuses=self._percent >= self._limit)

    async def look_forever(self) -> None:
        while True:
            try:
                await self.look()
            except (RedisError, OSError) as exc:
                logger.debug("memory of Redis not read", error=type(exc).__name__)
            await asyncio.sleep(LOOK_SECONDS)


def _facts(info: bytes) -> tuple[int, int]:
    """Bytes used, and at most."""
    facts = {name: int(value) for name, value in _FIELD.findall(info)}
    return facts.get(b"used_memory", 0), facts.get(b"maxmemory", 0)


def _percent(used: int, limit: int) -> int:
    """A server without `maxmemory` is never full."""
    return 100 * used // limit if limit else 0
