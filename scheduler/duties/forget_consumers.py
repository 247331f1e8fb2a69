"""Names of workers that are long gone leave the consumer groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from shared import keyspace
from shared.domain.job import Lane
from shared.queue.redis_link import RedisLink
from shared.queue.script_calls import Scripts

IDLE_SECONDS: Final = 3600


async def forget_consumers(link: RedisLink, providers: Sequence[str], *, shards: int) -> int:
    """How many names went. One that still holds entries stays until they were reclaimed."""
    scripts = Scripts(link)
    removed = 0
    for key in (keyspace.lane(s, p, lane) for s in range(shards) for p in providers for lane in Lane):
        try:
            consumers: list[Any] = await link.execute("XINFO", "CONSUMERS", key, keyspace.GROUP)
        except ResponseError:
            continue  # no group yet: no worker ever came
        for consumer in consumers:
            fields = dict(zip(consumer[::2], consumer[1::2], strict=True))
            if fields[b"idle"] > IDLE_SECONDS * 1000 and fields[b"pending"] == 0:
                removed += await scripts.call("forget_consumer", [key], fields[b"name"])
    return removed
