"""The whole broker on a Redis Cluster: whole calls, streams, retries, keys and a drain."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import keyspace
from tests.chaos import checker
from tests.chaos.callers import Manner, ask, scripts, session_of
from tests.chaos.history import Ending
from tests.fakes.eventually import eventually
from tests.fakes.redis_cluster import RedisCluster
from tests.fakes.stack import Stack, start_apart

SHARDS = 16


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    stack = Stack(
        redis=RedisCluster(),
        workers=2,
        settings={"HEADRACE_QUEUE__SHARDS": str(SHARDS)},
        database_template=sqlite_template,
    )
    start_apart(stack)
    yield stack
    stack.end_now()


async def test_calls_and_streams_are_answered_and_charged_once_in_every_shard(broker: Stack) -> None:
    asks = scripts("cluster", random.Random(7), Manner(streams=0.5, delay_ms=(0, 20), chunks=4, pace_ms=2))
    async with session_of(broker.api_key) as session:
        exchanges = await asyncio.gather(*(ask(session, broker.url, next(asks)) for _ in range(96)))

    assert {exchange.ending for exchange in exchanges} == {Ending.WHOLE}
    assert checker.misread(exchanges) == []
    assert {keyspace.shard_of(str(e.job), SHARDS) for e in exchanges} == set(range(SHARDS))
    names = sorted(exchange.name for exchange in exchanges)

    async def charged() -> bool:
        return sorted(row["request_id"] for row in await broker.ledger()) == names

    await eventually(charged, "one ledger row a call")


async def test_what_a_provider_refused_is_tried_again(broker: Stack) -> None:
    asks = scripts("refused", random.Random(8), Manner(refusals=1, delay_ms=(0, 5)))
    async with session_of(broker.api_key) as session:
        exchanges = await asyncio.gather(*(ask(session, broker.url, next(asks)) for _ in range(16)))

    assert {exchange.ending for exchange in exchanges} == {Ending.WHOLE}


async def test_it_says_that_all_is_well(broker: Stack) -> None:
    async with broker.client() as client:
        health, ready, metrics = [await client.get(path) for path in ("/health", "/health/ready", "/metrics")]

    assert (health.status_code, ready.status_code, metrics.status_code) == (200, 200, 200)
    assert health.json()["redis"] == ready.json()["redis"] == "connected"
    assert "headrace_queue" in metrics.text or "queue" in metrics.text


async def test_a_worker_that_is_asked_to_stop_drains(broker: Stack) -> None:
    worker = await broker.start_worker()

    assert await broker.sigterm(worker) == 0
