"""How jobs ended that never were in the queue, told to the ledger as the queue's scripts tell it."""

from __future__ import annotations

from collections.abc import Sequence

from shared import keyspace
from shared.domain.job import Job
from shared.domain.usage import Settlement
from shared.queue.redis_link import RedisArg, RedisLink


class UsageStream:
    def __init__(self, link: RedisLink, *, shards: int) -> None:
        self._link = link
        self._shards = shards

    async def tell(self, settled: Sequence[tuple[Job, Settlement]]) -> None:
        """Twice is once: the ledger has a row a job. Raises RedisError."""
        commands: list[tuple[RedisArg, ...]] = [
            (
                "XADD", keyspace.usage(keyspace.shard_of(job.id, self._shards)), "*", "job", job.id,
                "header", job.header(), "outcome", settlement.to_wire(),
            )
            for job, settlement in settled
        ]  # fmt: skip
        for answer in await self._link.execute_many(commands) if commands else ():
            if isinstance(answer, Exception):
                raise answer
