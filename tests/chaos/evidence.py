"""What is left when a test is over, gathered into its history, and the judgement of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from redis.asyncio import Redis

from shared import keyspace
from shared.domain.job import Lane
from shared.ids import JobId
from tests.chaos.checker import Violation
from tests.chaos.history import Call, History, LedgerRow, StoredJob
from tests.chaos.nemesis import redis_of
from tests.fakes.eventually import NeverCame, eventually
from tests.fakes.stack import Stack


async def gather(stack: Stack, history: History, prefix: str, *, within: float = 30.0) -> None:
    """Wait until the queue and the usage stream are empty, then read everything whose name begins so."""
    async with redis_of(stack) as redis:

        async def is_settled() -> bool:
            history.left_in_lanes = await _left(redis)
            return history.left_in_lanes == 0

        with contextlib.suppress(NeverCame):  # the judge sees what is left
            await eventually(is_settled, "an empty queue", within=within, every=0.05)
        history.calls = [
            Call(
                name=call.cue or "",
                job=call.job or "",
                opened_at=call.open_at,
                closed_at=call.close_at,
                outcome=call.outcome,
                refused=call.status is not None and call.status >= 400,
            )
            for call in stack.calls()
            if (call.cue or "").startswith(prefix)
        ]
        history.ledger = [
            LedgerRow(row["job_id"], row["request_id"], row["outcome"])
            for row in await stack.ledger()
            if row["request_id"].startswith(prefix)
        ]
        for job in {e.job for e in history.exchanges if e.job} | {call.job for call in history.calls}:
            if stored := await _stored(redis, job):
                history.stored[job] = stored


async def _left(redis: Redis) -> int:
    left = await redis.xlen(keyspace.usage(0)) + await redis.zcard(keyspace.delayed(0, "openai"))
    for lane in Lane:
        left += await redis.xlen(keyspace.lane(0, "openai", lane))
    return int(left)


async def _stored(redis: Redis, job: str) -> StoredJob | None:
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hmget(keyspace.job(0, JobId(job)), ["state", "result_body"])
        pipe.xrange(keyspace.events(0, JobId(job)))
        (state, body), entries = await pipe.execute()
    if state is None:
        return None
    events = tuple(event for _, fields in entries for event in fields["d"].split("\n"))
    return StoredJob(job, state, body or "", events)


def judge(violations: Iterable[Violation], history: History, folder: Path) -> None:
    """Fails with what was broken, the kills, and where the whole history is."""
    found = list(violations)
    if not found:
        return
    shown = "\n".join(f"  {v.what}: {v.who} ({v.detail[:300]})" for v in found[:20])
    kills = "\n".join(f"  {k.point} {k.worker} at {k.at:.3f}, {len(k.in_flight)} jobs" for k in history.kills)
    path = history.write(folder / "history.json")
    raise AssertionError(f"{len(found)} violations:\n{shown}\nkills:\n{kills}\nhistory: {path}")
