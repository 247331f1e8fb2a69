"""Streams whose hints are lost again and again: every subscription is cut while they run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.chaos import checker, size
from tests.chaos.callers import Manner, Script, ask, closed_loop, scripts, session_of
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Exchange, History
from tests.chaos.nemesis import redis_of
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]

MANNER = Manner(streams=1.0, delay_ms=(10, 100), chunks=40, pace_ms=20, words=40)


async def test_lost_subscriptions_cost_no_character(broker: Stack, tmp_path: Path) -> None:
    rng = size.dice("pub/sub loss")
    history = History()
    cuts = 50 if size.is_full() else 15
    made = 0

    async def cut() -> None:
        """The next one as soon as a few streams ended since and every subscription is open again."""
        nonlocal made
        async with redis_of(broker) as redis:
            subscribers = await _subscribers(redis)
            for _ in range(cuts):
                await _ended_since(history, len(history.exchanges) + rng.randint(1, 5))
                made += await redis.client_kill_filter(_type="pubsub") > 0
                await _are_back(redis, subscribers)

    await broker.start_worker()
    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:

        async def send(script: Script) -> Exchange:
            # With ids each event is known, so a repeated one shows even where its text is empty.
            return await ask(session, broker.url, script, headers={"x-stream-ids": "true"})

        cutting = group.create_task(cut(), name="cut")
        await closed_loop(
            send,
            scripts("pubsub", rng, MANNER),
            history.exchanges,
            callers=32,
            jobs=size.jobs(ci=100),
            until=cutting.done,
        )
    await gather(broker, history, "pubsub")
    for worker in list(broker.workers):
        await broker.sigterm(worker)

    faults = [v.what for v in checker.misread(history.exchanges)]
    size.report(
        "pub/sub disconnects",
        streams=len(history.exchanges),
        disconnects=made,
        characters=sum(len(e.text) for e in history.exchanges),
        missing=faults.count("missing text"),
        doubled=faults.count("doubled text"),
        reordered=faults.count("reordered text"),
        extra_calls=checker.count_calls(history.calls, []).extra,
    )
    assert made == cuts
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.surplus_calls(history.calls, []),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def _ended_since(history: History, count: int) -> None:
    await eventually(lambda: len(history.exchanges) >= count, "streams that end", within=30)


async def _subscribers(redis: Redis) -> int:
    return len(await redis.client_list(_type="pubsub"))


async def _are_back(redis: Redis, subscribers: int) -> None:
    async def look() -> bool:
        return await _subscribers(redis) >= subscribers

    await eventually(look, "open subscriptions")
