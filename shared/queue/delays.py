"""Delayed jobs: back into their lanes when due.

The scheduler does it for the providers it knows and says for which. Workers do it for those of
their own that no scheduler names: because there is none, or it was configured without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from shared import faultpoints, keyspace
from shared.domain.job import Lane
from shared.ids import JobId
from shared.queue.backlog import refill
from shared.queue.redis_link import RedisArg, RedisLink
from shared.queue.script_calls import Scripts
from shared.settings import QueueSettings

_BATCH: Final = 500
_SCHEDULED_SECONDS: Final = 3


class Delays:
    def __init__(self, link: RedisLink, settings: QueueSettings) -> None:
        self._link = link
        self._scripts = Scripts(link)
        self._settings = settings
        self._shards = settings.shards

    async def promote(self, providers: Sequence[str]) -> int:
        """How many jobs became ready. Candidates come from the server; the script checks each again.

        Raises RedisError, once those that can be promoted are: a node of a cluster may be away.
        """
        moved = 0
        failure: Exception | None = None
        pairs = [(shard, provider) for shard in range(self._shards) for provider in providers]
        now = await self._now_ms()
        found: list[Any] = await self._link.execute_many(
            [
                ("ZRANGEBYSCORE", keyspace.delayed(shard, provider), "-inf", now, "LIMIT", 0, _BATCH)
                for shard, provider in pairs
            ]
        )
        for (shard, provider), members in zip(pairs, found, strict=True):
            if isinstance(members, Exception):
                failure = members
                continue
            if not members:
                continue
            keys = [keyspace.delayed(shard, provider)]
            args: list[RedisArg] = [self._settings.shard_window, self._settings.shard_cap]
            for member in members:
                job_id, lane = member.decode().split("|")
                keys += [
                    keyspace.job(shard, JobId(job_id)),
                    keyspace.lane(shard, provider, Lane(lane)),
                    keyspace.backlog(shard, provider, Lane(lane)),
                ]
                args += [member, job_id]
            faultpoints.hit("S1")
            try:
                moved += await self._scripts.call("promote_due", keys, *args)
            except RedisError as exc:
                failure = exc
        if failure is not None:
            raise failure
        return moved

    async def promote_as_scheduler(self, providers: Sequence[str]) -> int:
        """The same, and workers may leave these providers alone for three seconds: only now, as a
        scheduler that cannot promote must not keep them from it.
        """
        moved = await self.promote(providers)
        await self._link.execute(
            "SET", keyspace.SCHEDULER_ALIVE, ",".join(providers), "EX", _SCHEDULED_SECONDS
        )
        return moved

    async def promote_unscheduled(self, providers: Sequence[str]) -> int:
        """The same, for those of `providers` that no scheduler promotes."""
        named: bytes | None = await self._link.execute("GET", keyspace.SCHEDULER_ALIVE)
        scheduled = set() if named is None else set(named.decode().split(","))
        left = [provider for provider in providers if provider not in scheduled]
        return await self.promote(left) if left else 0

    async def refill(self, providers: Sequence[str]) -> None:
        """What waits behind lanes that nobody refills. Raises RedisError."""
        await refill(self._link, self._scripts, self._settings, providers)

    async def _now_ms(self) -> int:
        seconds, micros = await self._link.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000
