"""One account queues as much as it likes, and another one calls as before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from shared import keyspace
from shared.domain.job import JobKind, Lane
from shared.ids import AccountId
from shared.queue.producer import Producer
from shared.requests.turn import cost_of
from shared.settings import QueueSettings
from tests.chaos import size
from tests.chaos.callers import Manner, ask, closed_loop, scripts, session_of
from tests.chaos.history import Exchange
from tests.chaos.leases import SHORT
from tests.chaos.nemesis import redis_of
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart
from tests.integration.queue.support import a_job, open_link

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

FLOOD: Final = 10_000 if size.is_full() else 1_000
CALL_MS: Final = (250, 550)
"""Not all the same: else all slots would be free at once, and then none for as long as a call takes."""
SLOTS: Final = 64
ASKS: Final = 300 if size.is_full() else 40
CALLERS: Final = 8
"""Of the quiet account, at once."""
NOISY: Final = AccountId("acc_noisy")


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    stack = Stack(
        workers=1,
        database_template=sqlite_template,
        settings={**SHORT, "HEADRACE_WORKER__SLOTS": str(SLOTS)},
    )
    start_apart(stack)
    yield stack
    stack.end_now()


@pytest.mark.parametrize(
    ("lane", "times"), [(Lane.INTERACTIVE, 2.0), (Lane.BATCH, 1.2)], ids=["same lane", "batch"]
)
async def test_a_flood_of_one_account_is_hardly_felt_by_another(
    broker: Stack, lane: Lane, times: float
) -> None:
    alone = await _latencies(broker, f"alone-{lane}")
    await _flood(broker, lane)

    beside = await _latencies(broker, f"beside-{lane}")

    async with redis_of(broker) as redis:
        backlog = keyspace.backlog(0, "openai", lane)
        still_waiting = int(await redis.zcard(backlog))
        # Nobody waits for the rest of it, so that the next flood need not either.
        await redis.delete(backlog, f"{backlog}:tenants")
        await eventually(lambda: _is_empty(redis, lane), "the end of the flood")
    size.report(
        f"noisy neighbour, {lane}",
        flood=FLOOD,
        still_waiting=still_waiting,
        alone_p95_ms=round(_p95(alone) * 1000),
        beside_p95_ms=round(_p95(beside) * 1000),
        times=round(_p95(beside) / _p95(alone), 3),
    )
    assert still_waiting > 0, "the flood was over before the other account was"
    assert _p95(beside) <= times * _p95(alone)


async def _latencies(broker: Stack, prefix: str) -> list[float]:
    exchanges: list[Exchange] = []
    manner = Manner(streams=0, delay_ms=CALL_MS)
    async with session_of(broker.api_key) as session:
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts(prefix, size.dice(prefix), manner),
            exchanges,
            callers=CALLERS,
            jobs=ASKS,
        )
    assert {exchange.status for exchange in exchanges} == {200}
    return [exchange.ended_at - exchange.began_at for exchange in exchanges]


async def _flood(broker: Stack, lane: Lane) -> None:
    """All of it is accepted before this returns."""
    await broker.new_api_key(NOISY)
    documents = [_document(ms) for ms in range(*CALL_MS)]
    async with open_link(broker.redis.url) as link:
        producer = Producer(link, QueueSettings())
        jobs = [
            replace(
                a_job(account=NOISY, provider="openai", lane=lane, budget_ms=600_000),
                body=json.dumps(documents[n % len(documents)]).encode(),
            )
            for n in range(FLOOD)
        ]
        cost = cost_of(JobKind.CHAT, documents[0], len(jobs[0].body))
        await asyncio.gather(*(producer.enqueue(job, reply_to="", keep=True, cost=cost) for job in jobs))


def _document(ms: int) -> dict[str, Any]:
    cue = json.dumps({"before_headers_ms": ms})
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"!script {cue}\nSay it."}]}


async def _is_empty(redis: Any, lane: Lane) -> bool:
    waiting = await redis.zcard(keyspace.backlog(0, "openai", lane))
    return not waiting and not await redis.xlen(keyspace.lane(0, "openai", lane))


def _p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]
