"""One scheduler at a time for a batch, as long as it lives and says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.exceptions import RedisError

from shared import keyspace
from shared.ids import BatchId
from shared.queue.redis_link import RedisLink

TTL_MS: Final = 10_000
_RENEW: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""
_GIVE_BACK: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


class Turns:
    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._token = os.urandom(8).hex()

    @asynccontextmanager
    async def of(self, batch: BatchId) -> AsyncIterator[bool]:
        """Whether it is ours. A turn that is lost meanwhile is no harm. Raises RedisError."""
        key = keyspace.batch_turn(batch)
        if not await self._link.execute("SET", key, self._token, "NX", "PX", TTL_MS):
            yield False
            return
        renewal = asyncio.create_task(self._renew(key), name="batch-turn")
        try:
            yield True
        finally:
            renewal.cancel()
            with contextlib.suppress(RedisError, OSError):
                await self._link.execute("EVAL", _GIVE_BACK, 1, key, self._token)

    async def _renew(self, key: str) -> None:
        while True:
            await asyncio.sleep(TTL_MS / 3000)
            with contextlib.suppress(RedisError, OSError):
                await self._link.execute("EVAL", _RENEW, 1, key, self._token, TTL_MS)
