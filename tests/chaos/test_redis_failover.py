"""The server that holds the queue dies for good, under load, and another one takes its place."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from shared import keyspace
from tests.chaos import checker, size
from tests.chaos.callers import Manner, Script, ask, closed_loop, scripts, session_of
from tests.chaos.evidence import judge
from tests.chaos.history import Ending, Exchange, History
from tests.fakes.eventually import eventually
from tests.fakes.redis_cluster import RedisCluster
from tests.fakes.redis_sentinel import RedisSentinel
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]

BACK_SECONDS: Final = 10.0
"""To notice (1 s of a cluster's node timeout, 0.5 s of down-after), to elect, to promote, to reconnect."""
SHARDED: Final = {"HEADRACE_QUEUE__SHARDS": "16"}


async def test_a_cluster_whose_master_dies_is_whole_again_and_tells_every_caller(
    fresh_stack: FreshStack, tmp_path: Path
) -> None:
    cluster = RedisCluster(replicas=1)
    broker = await fresh_stack(redis=cluster, apis=2, workers=2, settings=SHARDED)

    async def lose() -> None:
        lost = cluster.owner(keyspace.usage(0))
        await asyncio.to_thread(lost.kill9)

    await _survives(broker, lose, "cluster master killed", tmp_path)


async def test_a_master_that_sentinels_replace_is_whole_again_and_tells_every_caller(
    fresh_stack: FreshStack, tmp_path: Path
) -> None:
    sentinel = RedisSentinel()
    broker = await fresh_stack(redis=sentinel, apis=2, workers=2)

    async def lose() -> None:
        await asyncio.to_thread(sentinel.master.kill9)

    await _survives(broker, lose, "sentinel master killed", tmp_path)


async def test_callers_of_jobs_that_were_never_replicated_are_told_that_they_are_lost(
    fresh_stack: FreshStack,
) -> None:
    cluster = RedisCluster(replicas=1)
    broker = await fresh_stack(redis=cluster, settings=SHARDED)
    lost = cluster.owner(keyspace.usage(0))
    asks = scripts("behind", size.dice("replica behind"), Manner(streams=0, delay_ms=(8_000, 8_000)))
    async with session_of(broker.api_key) as session:
        await ask(session, broker.url, next(scripts("before", size.dice("replica behind"), Manner())))
        cluster.stop_replicating(lost)
        asked = [asyncio.create_task(ask(session, broker.url, next(asks))) for _ in range(32)]
        await eventually(lambda: len(broker.calls()) > len(asked), "every call at the provider")

        lost.kill9()
        exchanges = await asyncio.gather(*asked)

    told = Counter((str(e.ending), e.status, e.code) for e in exchanges)
    size.report("replica behind", told={str(key): count for key, count in told.items()})
    gone = {e.name for e in exchanges if e.code == "job_lost"}
    assert gone
    assert {e.status for e in exchanges if e.name in gone} == {503}
    assert {e.ending for e in exchanges if e.name not in gone} == {Ending.WHOLE}


async def _survives(broker: Stack, lose: Callable[[], Awaitable[None]], what: str, folder: Path) -> None:
    rng = size.dice(what)
    history = History()
    asks = scripts("failover", rng, Manner(delay_ms=(20, 120)))
    turn = 0

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:

        async def send(script: Script) -> Exchange:
            nonlocal turn
            turn += 1
            return await ask(session, broker.apis[turn % len(broker.apis)].url, script)

        async def whole() -> bool:
            """So many at once that each shard has some."""
            answers = await asyncio.gather(*(send(next(asks)) for _ in range(64)))
            history.exchanges.extend(answers)
            return all(answer.ending is Ending.WHOLE for answer in answers)

        async def fail_over() -> None:
            await eventually(lambda: len(history.exchanges) > 30, "load")
            began = time.time()
            await lose()
            await eventually(whole, "service", within=3 * BACK_SECONDS, every=0.1)
            history.outages.append((began, time.time()))

        failing = group.create_task(fail_over(), name="fail-over")
        await closed_loop(send, asks, history.exchanges, callers=24, jobs=size.jobs(), until=failing.done)

    ((lost_at, whole_at),) = history.outages

    def was_told(exchange: Exchange) -> bool:
        """Of those that met the failure: by a typed 503, or, in the middle of a stream, a typed error."""
        refused = exchange.ending is Ending.REFUSED and exchange.status == 503 and exchange.code is not None
        broken = exchange.ending is Ending.ERROR and exchange.code is not None
        return (refused or broken) and exchange.began_at < whole_at and exchange.ended_at > lost_at

    size.report(
        what,
        jobs=len(history.exchanges),
        back_seconds=round(whole_at - lost_at, 2),
        told=dict(Counter(str(e.code) for e in history.exchanges if was_told(e))),
        slowest_seconds=round(max(e.ended_at - e.began_at for e in history.exchanges), 2),
    )
    assert [process.name for process in broker.processes if not process.is_running] == []
    assert whole_at - lost_at <= BACK_SECONDS
    judge(
        [
            *checker.unanswered(history.exchanges, excused=was_told),
            *checker.misread(history.exchanges),
        ],
        history,
        folder,
    )
