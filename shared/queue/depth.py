"""How much waits where: one function for the metrics, the autoscaler and the status routes.

Whoever asks gets the same numbers: of several answers take the max, not the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from shared import keyspace
from shared.domain.job import Lane
from shared.queue.redis_link import RedisLink


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """`queued`: jobs no worker has, ready or in the backlog, `waiting` of them in the backlog.
    Delayed retries are not split by lane: they count as standard.

    `in_flight`: handed to workers. What a worker handed back counts here until another takes it.
    `oldest_age_seconds`: of the longest waiting queued job, 0 if none.
    """

    provider: str
    lane: Lane
    queued: int
    in_flight: int
    oldest_age_seconds: float
    waiting: int = 0


async def measure(link: RedisLink, providers: Sequence[str], *, shards: int) -> list[LaneDepth]:
    """One pipelined round trip, a second for the ages. Raises RedisError."""
    places = [(provider, lane) for provider in providers for lane in Lane]
    keys = [[keyspace.lane(shard, p, lane) for shard in range(shards)] for p, lane in places]
    flat = [key for group in keys for key in group]
    delays = [keyspace.delayed(shard, p) for p in providers for shard in range(shards)]
    behind = [keyspace.backlog(shard, p, lane) for p, lane in places for shard in range(shards)]
    answers = await link.execute_many(
        [
            ("TIME",),
            *(("XLEN", key) for key in flat),
            *(("ZCARD", key) for key in delays),
            *(("ZCARD", key) for key in behind),
            *(("ZCARD", f"{key}:parked") for key in behind),
            *(("ZRANGE", key, 0, 0) for key in behind),
            *(("XINFO", "GROUPS", key) for key in flat),
        ]
    )
    groups = answers[-len(flat) :]
    (seconds, micros), *counts = _or_raise(answers[: -len(flat)])
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    lengths, due = counts[: len(flat)], counts[len(flat) : len(flat) + len(delays)]
    backlogs, parked, heads = (
        counts[len(flat) + len(delays) + n * len(flat) :][: len(flat)] for n in range(3)
    )
    waits = {key: int(one) + int(other) for key, one, other in zip(flat, backlogs, parked, strict=True)}
    facts: dict[str, tuple[int, int, bytes]] = {}
    for key, length, group in zip(flat, lengths, groups, strict=True):
        pending, last_delivered = _group_facts(group)
        # Not one instant: an entry may have been added and delivered between the two looks.
        facts[key] = (max(length, pending), pending, last_delivered)
    waiting = [key for key, (length, pending, _) in facts.items() if length > pending]
    # The head of a backlog is not always its oldest job, but waits about as long.
    first = [(key, head[0]) for key, head in zip(flat, heads, strict=True) if head]
    oldest = await link.execute_many(
        [
            *(("XRANGE", key, b"(" + facts[key][2], "+", "COUNT", 1) for key in waiting),
            *(("HGET", job, "created") for _, job in first),
        ]
    )
    ages: dict[str, float] = {}
    for key, entries in zip(waiting, _or_raise(oldest[: len(waiting)]), strict=True):
        if entries:
            ages[key] = max(0.0, (now_ms - int(entries[0][0].split(b"-")[0])) / 1000)
    for (key, _), created in zip(first, _or_raise(oldest[len(waiting) :]), strict=True):
        if created:
            ages[key] = max(ages.get(key, 0.0), (now_ms - int(created)) / 1000)
    delayed = {p: sum(due[i * shards : (i + 1) * shards]) for i, p in enumerate(providers)}
    return [
        LaneDepth(
            provider=provider,
            lane=lane,
            queued=sum(facts[key][0] - facts[key][1] + waits[key] for key in group)
            + (delayed[provider] if lane is Lane.STANDARD else 0),
            in_flight=sum(facts[key][1] for key in group),
            oldest_age_seconds=max((ages.get(key, 0.0) for key in group), default=0.0),
            waiting=sum(waits[key] for key in group),
        )
        for (provider, lane), group in zip(places, keys, strict=True)
    ]


def _or_raise(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _group_facts(reply: Any) -> tuple[int, bytes]:
    """Pending entries and last delivered id of our group; zero when no worker ever came."""
    if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
        raise reply
    if isinstance(reply, list):
        for group in reply:
            fields = dict(zip(group[::2], group[1::2], strict=True))
            if fields[b"name"] == keyspace.GROUP.encode():
                return fields[b"pending"], fields[b"last-delivered-id"]
    return 0, b"0-0"
