"""How much waits where: one function for the metrics, the autoscaler and the status routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared import keyspace
from shared.domain.job import Lane
from shared.queue.redis_link import RedisLink


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """`queued`: jobs no worker has. Delayed retries are not split by lane: they count as standard.

    `in_flight`: handed to workers. `oldest_age_seconds`: of the longest waiting queued job, 0 if none.
    """

    provider: str
    lane: Lane
    queued: int
    in_flight: int
    oldest_age_seconds: float


async def measure(link: RedisLink, providers: Sequence[str], *, shards: int) -> list[LaneDepth]:
    """One pipelined round trip, a second for the ages. Raises RedisError."""
    places = [(provider, lane) for provider in providers for lane in Lane]
    keys = [[keyspace.lane(shard, p, lane) for shard in range(shards)] for p, lane in places]
    flat = [key for group in keys for key in group]
    seconds, micros = await link.execute("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    lengths = await link.execute_many([("XLEN", key) for key in flat])
    groups = await link.execute_many([("XINFO", "GROUPS", key) for key in flat])
    facts: dict[str, tuple[int, int, bytes]] = {}
    for key, length, group in zip(flat, lengths, groups, strict=True):
        pending, last_delivered = _group_facts(group)
        if isinstance(length, Exception):
            raise length
        facts[key] = (length, pending, last_delivered)
    waiting = [key for key, (length, pending, _) in facts.items() if length > pending]
    oldest = await link.execute_many(
        [("XRANGE", key, b"(" + facts[key][2], "+", "COUNT", 1) for key in waiting]
    )
    ages: dict[str, float] = {}
    for key, entries in zip(waiting, oldest, strict=True):
        if isinstance(entries, list) and entries:
            ages[key] = max(0.0, (now_ms - int(entries[0][0].split(b"-")[0])) / 1000)
    due = await link.execute_many(
        [("ZCARD", keyspace.delayed(shard, p)) for p in providers for shard in range(shards)]
    )
    delayed = {
        p: sum(n for n in due[i * shards : (i + 1) * shards] if isinstance(n, int))
        for i, p in enumerate(providers)
    }
    return [
        LaneDepth(
            provider=provider,
            lane=lane,
            queued=sum(facts[key][0] - facts[key][1] for key in group)
            + (delayed[provider] if lane is Lane.STANDARD else 0),
            in_flight=sum(facts[key][1] for key in group),
            oldest_age_seconds=max((ages.get(key, 0.0) for key in group), default=0.0),
        )
        for (provider, lane), group in zip(places, keys, strict=True)
    ]


def _group_facts(reply: Any) -> tuple[int, bytes]:
    """Pending entries and last delivered id of our group; zero when no worker ever came."""
    if isinstance(reply, list):
        for group in reply:
            fields = dict(zip(group[::2], group[1::2], strict=True))
            if fields[b"name"] == keyspace.GROUP.encode():
                return fields[b"pending"], fields[b"last-delivered-id"]
    return 0, b"0-0"
