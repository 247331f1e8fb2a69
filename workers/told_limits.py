"""The limits that providers tell in their answers, kept where any api process can read them.

A call costs one assignment; the headers of the last one are read and written once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import orjson
from loguru import logger
from redis.exceptions import RedisError

from shared import keyspace
from shared.clock import Clock, SystemClock
from shared.providers.limits import read_limits
from shared.queue.redis_link import RedisArg, RedisLink

STORE_SECONDS: Final = 1.0
KEPT_MS: Final = 600_000
"""What was told ten minutes ago is about limits that have been reset since."""


class ToldLimits:
    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._latest: dict[str, Mapping[str, str]] = {}
        """Headers of each provider's last answer since they were last stored."""

    def note(self, provider: str, headers: Mapping[str, str]) -> None:
        self._latest[provider] = headers

    async def store(self, link: RedisLink) -> None:
        """What cannot be stored is told anew by the next answer. Raises RedisError, OSError."""
        latest, self._latest = self._latest, {}
        now = self._clock.now().astimezone(UTC)
        writes: list[tuple[RedisArg, ...]] = [
            ("SET", keyspace.limits(provider), orjson.dumps(told), "PX", KEPT_MS)
            for provider, headers in latest.items()
            if (told := _told(headers, now)) is not None
        ]
        if writes:
            await link.execute_many(writes)

    async def store_forever(self, link: RedisLink) -> None:
        while True:
            await asyncio.sleep(STORE_SECONDS)
            try:
                await self.store(link)
            except (RedisError, OSError) as exc:
                logger.debug("limits not stored", error=type(exc).__name__)


def _told(headers: Mapping[str, str], now: datetime) -> dict[str, object] | None:
    limits = read_limits({name.lower(): value for name, value in headers.items()}, now)
    return None if limits is None else limits.to_fields()
