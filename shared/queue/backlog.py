"""What waits behind a full lane, and how it gets in when nobody begins a job there."""

from __future__ import annotations

from collections.abc import Sequence

from shared import keyspace
from shared.domain.job import Lane
from shared.queue.redis_link import RedisLink
from shared.queue.script_calls import Scripts
from shared.settings import QueueSettings


async def refill(
    link: RedisLink, scripts: Scripts, settings: QueueSettings, providers: Sequence[str]
) -> None:
    """Every job that begins lets the next one in. Where none does, because workers died before they
    began what they had read or knew nothing of backlogs, somebody has to look. Raises RedisError.
    """
    places = [(s, p, lane) for s in range(settings.shards) for p in providers for lane in Lane]
    keys = [keyspace.backlog(*at) for at in places]
    keys += [f"{key}:parked" for key in keys]
    waits = await link.execute_many([("EXISTS", key) for key in keys])
    for number, at in enumerate(places):
        found = waits[number], waits[number + len(places)]
        for answer in found:
            if isinstance(answer, Exception):
                raise answer
        if any(found):
            await scripts.call(
                "refill", [keyspace.lane(*at), keys[number]], settings.shard_window, settings.shard_cap
            )
