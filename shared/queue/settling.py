"""What ended in Redis and is not in the database yet, how long it has waited, and whether somebody is at it.

Whoever asks gets the same numbers: of several answers take the max, not the sum.
"""

from __future__ import annotations

from shared import keyspace
from shared.observability.metrics import Reading
from shared.queue.redis_link import RedisArg, RedisLink


async def measure(link: RedisLink, *, shards: int) -> list[Reading]:
    """One pipelined round trip. Raises RedisError."""
    usage = [keyspace.usage(shard) for shard in range(shards)]
    ended = [keyspace.ended(shard) for shard in range(shards)]
    rejected = [keyspace.usage_rejected(shard) for shard in range(shards)]
    commands: list[tuple[RedisArg, ...]] = [
        ("TIME",),
        ("EXISTS", keyspace.SCHEDULER_ALIVE),
        *(("XLEN", key) for key in (*usage, *ended, *rejected)),
        *(("XRANGE", key, "-", "+", "COUNT", 1) for key in (*usage, *ended)),
    ]
    answers = await link.execute_many(commands)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    (seconds, micros), alive, *rest = answers
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    lengths = [sum(rest[n * shards : (n + 1) * shards]) for n in range(3)]
    firsts = [rest[n * shards : (n + 1) * shards] for n in (3, 4)]
    ages = [
        max((now_ms - int(page[0][0].split(b"-")[0]) for page in pages if page), default=0) / 1000
        for pages in firsts
    ]
    return [
        Reading("gateway_scheduler_up", alive),
        Reading("gateway_ledger_lag_entries", lengths[0]),
        Reading("gateway_ledger_lag_seconds", max(0.0, ages[0])),
        Reading("gateway_ledger_rejected_entries", lengths[2]),
        Reading("gateway_unkept_jobs", lengths[1]),
        Reading("gateway_unkept_job_seconds", max(0.0, ages[1])),
    ]
