"""Redis slow, frozen, full, flushed or refusing, under load: callers are told, and all goes on after it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from shared import keyspace
from shared.domain.job import Lane
from shared.queue import eviction
from shared.queue.script_calls import source
from tests.chaos import checker, size
from tests.chaos.callers import Manner, Script, ask, closed_loop, scripts, session_of
from tests.chaos.checker import Excuse
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Ending, Exchange, History, Kill
from tests.chaos.leases import LEASE_SECONDS, SHORT
from tests.chaos.nemesis import consumer_of, held_by, redis_of
from tests.fakes.eventually import eventually
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.redis_server import RedisServer
from tests.fakes.stack import Stack

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.xdist_group("chaos"),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope="module"),
]

API_TIMEOUT_SECONDS: Final = 1.0
"""HEADRACE_QUEUE__API_TIMEOUT_SECONDS."""
BACK_SECONDS: Final = 3.0
DRAIN_SECONDS: Final = 1.0
WORKER_TIMEOUT_SECONDS: Final = 2.0
STOP_SECONDS: Final = DRAIN_SECONDS + 2 + WORKER_TIMEOUT_SECONDS + 2 + 2
"""It drains, tries to write what became of its jobs, arq tries to remove a key, the worker its name."""
SETTINGS: Final = {
    **SHORT,
    "HEADRACE_QUEUE__WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT_SECONDS),
    "HEADRACE_WORKER__DRAIN_SECONDS": str(DRAIN_SECONDS),
}


class BehindProxy(RedisServer):
    """What processes reach through a proxy, and tests beside it."""

    def __init__(self, server: RedisServer, proxy: FaultProxy) -> None:
        self.__dict__ |= server.__dict__
        self.proxy = proxy

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}/0"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(sqlite_template: Path) -> AsyncIterator[Stack]:
    """One for all of these tests: each leaves it as it found it."""
    server = RedisServer()
    await asyncio.to_thread(server.start)
    async with (
        FaultProxy(server.port) as proxy,
        Stack(
            workers=2,
            database_template=sqlite_template,
            settings=SETTINGS,
            redis=BehindProxy(server, proxy),
        ) as stack,
    ):
        yield stack


@pytest.fixture
def proxy(broker: Stack) -> FaultProxy:
    redis = broker.redis
    assert isinstance(redis, BehindProxy)
    return redis.proxy


@dataclass
class Load:
    """Callers who ask without end; what is found out about them."""

    broker: Stack
    name: str
    send: Callable[[Script], Awaitable[Exchange]]
    asks: Iterator[Script]
    history: History = field(default_factory=History)

    async def answers(self, count: int) -> None:
        """So many whole ones from now on."""
        since = time.time()
        await eventually(
            lambda: (
                sum(e.ending is Ending.WHOLE and e.ended_at > since for e in self.history.exchanges) >= count
            ),
            f"{count} answers",
        )

    async def ask_now(self, count: int) -> list[Exchange]:
        exchanges = await asyncio.gather(*(self.send(next(self.asks)) for _ in range(count)))
        self.history.exchanges += exchanges
        return exchanges

    async def ask_slowly(self, count: int, *, seconds: float) -> list[asyncio.Task[Exchange]]:
        """Asked once their calls are open: answers that take so long."""
        cue = int(seconds * 1000)
        slow = scripts(f"{self.name}-slow", size.dice(self.name), Manner(streams=0, delay_ms=(cue, cue)))
        mine = [next(slow) for _ in range(count)]
        asked = [asyncio.create_task(self._note(script)) for script in mine]
        names = {script.name for script in mine}
        await eventually(lambda: names <= {call.cue for call in self.broker.calls()}, "their calls")
        return asked

    async def _note(self, script: Script) -> Exchange:
        exchange = await self.send(script)
        self.history.exchanges.append(exchange)
        return exchange

    async def refused(self, *, within: float, count: int = 8) -> None:
        """Who asks now is told by a typed 503, and soon."""
        exchanges = await self.ask_now(count)
        assert {(e.ending, e.status) for e in exchanges} == {(Ending.REFUSED, 503)}
        assert None not in {e.code for e in exchanges}
        assert max(e.ended_at - e.began_at for e in exchanges) <= within

    @asynccontextmanager
    async def trouble(self) -> AsyncIterator[None]:
        """An outage, which lasts until somebody is served again: BACK_SECONDS after it, at most."""
        began = time.time()
        yield
        ended = time.time()
        await eventually(lambda: self._served_since(ended), "service", within=BACK_SECONDS)
        self.history.outages.append((began, self._served_since(ended)))
        self.back_seconds = self._served_since(ended) - ended

    back_seconds: float = 0.0

    def _served_since(self, moment: float) -> float:
        """When the first of those was answered who asked after `moment`; 0 before."""
        answered = [
            e.ended_at for e in self.history.exchanges if e.began_at > moment and e.ending is Ending.WHOLE
        ]
        return min(answered, default=0.0)

    def met_trouble(self, exchange: Exchange) -> bool:
        return any(
            exchange.began_at <= end and exchange.ended_at >= start for start, end in self.history.outages
        )

    def was_refused(self, exchange: Exchange) -> bool:
        """By a typed 503, at some time of the trouble."""
        refused = exchange.ending is Ending.REFUSED and exchange.status == 503 and exchange.code is not None
        return refused and self.met_trouble(exchange)

    def was_told(self, exchange: Exchange) -> bool:
        """The same, or by a typed error in the middle of a stream."""
        broken = exchange.ending is Ending.ERROR and exchange.code is not None
        return self.was_refused(exchange) or (broken and self.met_trouble(exchange))


@asynccontextmanager
async def load_on(broker: Stack, name: str, manner: Manner | None = None) -> AsyncIterator[Load]:
    """16 callers for as long as the block lasts."""
    is_over = False
    asks = scripts(name, size.dice(name), manner or Manner(delay_ms=(20, 120)))
    async with session_of(broker.api_key) as session:

        async def send(script: Script) -> Exchange:
            exchange = await ask(session, broker.url, script)
            if exchange.ending is Ending.REFUSED:
                await asyncio.sleep(0.1)  # as a client that obeys Retry-After, only sooner
            return exchange

        load = Load(broker, name, send, asks)
        async with asyncio.TaskGroup() as group:
            group.create_task(
                closed_loop(
                    load.send, asks, load.history.exchanges,
                    callers=16, jobs=size.jobs(), until=lambda: is_over,
                )
            )  # fmt: skip
            try:
                await load.answers(20)
                yield load
                await load.answers(20)
            finally:
                is_over = True


async def whole(
    broker: Stack,
    load: Load,
    folder: Path,
    *,
    excused: Excuse,
    uncharged: Excuse = checker.nobody,
    **figures: Any,
) -> None:
    """Nothing is lost, doubled or left behind, but what is excused; no process ended.

    `uncharged`: who may have been answered without a row in the ledger.
    """
    history = load.history
    await gather(broker, history, load.name)

    def orphan(exchange: Exchange) -> bool:
        return excused(exchange) or uncharged(exchange)

    size.report(
        load.name,
        jobs=len(history.exchanges),
        back_seconds=round(load.back_seconds, 2),
        told=dict(Counter(str(e.code) for e in history.exchanges if e.ending is not Ending.WHOLE)),
        extra_calls=checker.count_calls(history.calls, []).extra,
        **figures,
    )
    ended = {process.name for process in broker.ended}
    assert [p.name for p in broker.processes if not p.is_running and p.name not in ended] == []
    judge(
        [
            *checker.unanswered(history.exchanges, excused=excused),
            *checker.misread(history.exchanges),
            *checker.surplus_calls(history.calls, history.kills),
            *checker.ledger_faults(
                history.ledger, history.exchanges, orphans=lambda e: excused(e) or uncharged(e)
            ),
            *checker.leftovers(history),
        ],
        history,
        folder,
    )


async def test_slow_replies_are_given_up_and_nothing_piles_up_behind_them(
    broker: Stack, proxy: FaultProxy, tmp_path: Path
) -> None:
    async with load_on(broker, "slow") as load:
        before = proxy.open_connections
        async with load.trouble():
            proxy.delay_seconds = 1.5
            await load.refused(within=API_TIMEOUT_SECONDS + 0.5)
            await load.refused(within=API_TIMEOUT_SECONDS + 0.5)
            assert proxy.open_connections <= before + len(broker.processes)
            proxy.mend()
    assert await waiting(broker) == 0
    await whole(broker, load, tmp_path, excused=load.was_refused, connections=before)


async def test_replies_lost_after_their_command_ran_double_no_job_and_no_charge(
    broker: Stack, proxy: FaultProxy, tmp_path: Path
) -> None:
    async with load_on(broker, "unheard") as load:
        for script in ("enqueue", "begin", "append", "finish") * 3:
            proxy.lose_reply(partial(_calls, shas_of(script)))
            await eventually(lambda: proxy.has_lost_reply, f"a lost reply to {script}")
            await load.answers(2)
    await whole(broker, load, tmp_path, excused=checker.nobody)


def shas_of(script: str) -> list[bytes]:
    sources = [source(script, with_flags=flags).encode() for flags in (True, False)]
    return [hashlib.sha1(text, usedforsecurity=False).hexdigest().encode() for text in sources]


def _calls(shas: list[bytes], piece: bytes) -> bool:
    return any(sha in piece for sha in shas)


async def test_a_frozen_redis_is_told_in_time_and_keeps_no_worker_from_stopping(
    broker: Stack, tmp_path: Path
) -> None:
    async with load_on(broker, "frozen") as load:
        leaving = broker.workers[0]
        consumer = consumer_of(leaving)
        async with load.trouble():
            broker.redis.sigstop()
            await load.refused(within=API_TIMEOUT_SECONDS + 0.5)
            asked_at = time.time()
            await broker.sigterm(leaving, within=STOP_SECONDS)
            stopped_at = time.time()
            broker.redis.sigcont()
        async with redis_of(broker) as redis:
            held = frozenset(await held_by(redis, consumer))
        load.history.kills.append(Kill(stopped_at, leaving.name, "SIGTERM", held))
        await broker.start_worker()
    await whole(broker, load, tmp_path, excused=load.was_told, stop_seconds=round(stopped_at - asked_at, 2))


async def test_callers_whose_jobs_were_flushed_are_told_within_seconds_and_service_goes_on(
    broker: Stack, tmp_path: Path
) -> None:
    async with load_on(broker, "flushed") as load:
        asked = await load.ask_slowly(8, seconds=8)
        async with load.trouble():
            flushed_at = time.time()
            broker.redis.call("FLUSHALL")
        told = await asyncio.gather(*asked)

    def is_just_before(exchange: Exchange) -> bool:
        """What the ledger had not written yet is gone."""
        return exchange.began_at < flushed_at and exchange.ended_at > flushed_at - 1

    assert {(e.status, e.code) for e in told} == {(503, "job_lost")}
    assert max(e.ended_at for e in told) - flushed_at <= 3
    await whole(
        broker, load, tmp_path, excused=load.was_told, uncharged=is_just_before,
        told_seconds=round(max(e.ended_at for e in told) - flushed_at, 2),
    )  # fmt: skip


async def test_a_redis_that_takes_no_more_clients_is_told_and_taken_back(
    broker: Stack, proxy: FaultProxy, tmp_path: Path
) -> None:
    before = proxy.open_connections
    async with load_on(broker, "crowded") as load, redis_of(broker) as admin:
        most = (await admin.config_get("maxclients"))["maxclients"]
        async with load.trouble():
            await admin.config_set("maxclients", 1)
            for kind in ("normal", "pubsub"):
                await admin.client_kill_filter(_type=kind, skipme=True)
            await load.refused(within=API_TIMEOUT_SECONDS)
            await load.refused(within=API_TIMEOUT_SECONDS)
            await admin.config_set("maxclients", most)
    assert proxy.open_connections <= before + len(broker.processes)
    await whole(broker, load, tmp_path, excused=load.was_refused)


async def test_full_memory_refuses_new_jobs_and_ends_all_it_took(broker: Stack, tmp_path: Path) -> None:
    async with load_on(broker, "full") as load:
        asked = await load.ask_slowly(8, seconds=1)
        async with load.trouble():
            broker.redis.call("CONFIG", "SET", "maxmemory", 1)
            await load.refused(within=API_TIMEOUT_SECONDS)
            ended = await asyncio.gather(*asked)
            broker.redis.call("CONFIG", "SET", "maxmemory", 0)
    assert {e.ending for e in ended} == {Ending.WHOLE}
    assert {e.code for e in load.history.exchanges} <= {None, "queue_full"}
    await whole(broker, load, tmp_path, excused=load.was_refused)


async def test_a_redis_that_cannot_write_to_its_disk_is_waited_out(broker: Stack, tmp_path: Path) -> None:
    async with load_on(broker, "unsaved") as load:
        asked = await load.ask_slowly(8, seconds=1)
        async with load.trouble():
            await asyncio.to_thread(broker.redis.refuse_writes)
            await load.refused(within=API_TIMEOUT_SECONDS)
            await eventually(lambda: longest_idle(broker.redis) > LEASE_SECONDS * 1000, "lapsed leases")
            await asyncio.to_thread(broker.redis.take_writes)
        ended = await asyncio.gather(*asked)
    assert {e.ending for e in ended} == {Ending.WHOLE}
    await whole(broker, load, tmp_path, excused=load.was_refused)


def longest_idle(redis: RedisServer) -> int:
    """Milliseconds since anybody renewed the lease that was renewed longest ago."""
    lane = keyspace.lane(0, "openai", Lane.INTERACTIVE)
    return max((row[2] for row in redis.call("XPENDING", lane, keyspace.GROUP, "-", "+", 100)), default=0)


async def test_a_redis_whose_file_was_cut_off_starts_and_serves(broker: Stack, tmp_path: Path) -> None:
    async with load_on(broker, "cut") as load, load.trouble():
        await asyncio.to_thread(broker.redis.kill9)
        (file,) = broker.redis.data_dir.rglob("*.aof")
        os.truncate(file, file.stat().st_size - 5)
        await asyncio.to_thread(broker.redis.start)

    history = load.history
    await gather(broker, history, load.name)
    judge(
        [*checker.unanswered(history.exchanges, excused=load.was_told), *checker.misread(history.exchanges)],
        history,
        tmp_path,
    )


async def test_a_policy_that_evicts_is_noticed_while_it_runs(broker: Stack) -> None:
    redis = broker.redis
    async with broker.client() as client:

        async def ready() -> dict[str, Any]:
            view: dict[str, Any] = (await client.get("/health/ready")).json()
            return view

        async def evicts() -> bool:
            return bool((await ready())["redis"] == "evicts")

        async def is_good() -> bool:
            return bool((await ready())["redis"] == "connected")

        assert await is_good()
        redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await eventually(evicts, "notice", within=eviction.LOOK_SECONDS + 1)
        assert "allkeys-lru" in (await ready())["reason"]
        redis.call("CONFIG", "SET", "maxmemory-policy", eviction.SAFE)
        await eventually(is_good, "readiness", within=eviction.LOOK_SECONDS + 1)
    assert len(broker.log_events("redis evicts")) == 1


async def waiting(broker: Stack) -> int:
    async with broker.client() as client:
        view = (await client.get("/health")).json()
    requests: int = view["inference"]["waiting_requests"]
    return requests
