"""Redis slow, frozen, full, flushed or refusing, under load: callers are told, and all goes on after it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.chaos import checker, size
from tests.chaos.callers import Manner, Script, ask, closed_loop, scripts, session_of
from tests.chaos.checker import Excuse
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Ending, Exchange, History
from tests.chaos.leases import SHORT
from tests.fakes.eventually import eventually
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.redis_server import RedisServer
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(120)]

API_TIMEOUT_SECONDS: Final = 1.0
"""HEADRACE_QUEUE__API_TIMEOUT_SECONDS."""
BACK_SECONDS: Final = 3.0
SETTINGS: Final = {
    **SHORT,
    "HEADRACE_QUEUE__WORKER_TIMEOUT_SECONDS": "2",
    "HEADRACE_WORKER__DRAIN_SECONDS": "2",
}


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    """One for all tests that leave it as they found it."""
    stack = Stack(workers=2, database_template=sqlite_template, settings=SETTINGS)
    start_apart(stack)
    yield stack
    stack.end_now()


class BehindProxy(RedisServer):
    """What processes reach through a proxy, and tests beside it."""

    def __init__(self, proxy: FaultProxy, server: RedisServer) -> None:
        self.__dict__ |= server.__dict__
        self._proxy = proxy

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._proxy.port}/0"


@asynccontextmanager
async def behind_proxy(fresh_stack: FreshStack) -> AsyncIterator[tuple[Stack, FaultProxy]]:
    server = RedisServer()
    await asyncio.to_thread(server.start)
    async with FaultProxy(server.port) as proxy:
        yield await fresh_stack(redis=BehindProxy(proxy, server), workers=2, settings=SHORT), proxy


@dataclass
class Load:
    """Callers who ask without end; what is found out about them."""

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

    async def refused(self, *, within: float, count: int = 8) -> None:
        """Who asks now is told by a typed 503, and soon."""
        exchanges = await self.ask_now(count)
        assert {(e.ending, e.status) for e in exchanges} == {(Ending.REFUSED, 503)}
        assert None not in {e.code for e in exchanges}
        assert max(e.ended_at - e.began_at for e in exchanges) <= within

    @asynccontextmanager
    async def trouble(self) -> AsyncIterator[None]:
        """Its time is an outage; after it service is whole within BACK_SECONDS."""
        began = time.time()
        yield
        ended = time.time()
        self.history.outages.append((began, ended))
        await eventually(lambda: self._was_served_since(ended), "service", within=BACK_SECONDS)
        self.back_seconds = time.time() - ended

    back_seconds: float = 0.0

    def _was_served_since(self, moment: float) -> bool:
        return any(e.began_at > moment and e.ending is Ending.WHOLE for e in self.history.exchanges)

    def met_trouble(self, exchange: Exchange) -> bool:
        return any(
            exchange.began_at <= end and exchange.ended_at >= start for start, end in self.history.outages
        )

    def was_refused(self, exchange: Exchange) -> bool:
        """By a typed 503, at some time of the trouble."""
        refused = exchange.ending is Ending.REFUSED and exchange.status == 503 and exchange.code is not None
        return refused and self.met_trouble(exchange)


@asynccontextmanager
async def load_on(broker: Stack, name: str, manner: Manner | None = None) -> AsyncIterator[Load]:
    """16 callers for as long as the block lasts."""
    is_over = False
    asks = scripts(name, size.dice(name), manner or Manner(delay_ms=(20, 120)))
    async with session_of(broker.api_key) as session:
        load = Load(name, lambda script: ask(session, broker.url, script), asks)
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


async def whole(broker: Stack, load: Load, folder: Path, *, excused: Excuse, **figures: Any) -> None:
    """Nothing is lost, doubled or left behind, but what is excused; no process ended."""
    history = load.history
    await gather(broker, history, load.name)
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
            *checker.ledger_faults(history.ledger, history.exchanges, orphans=excused),
            *checker.leftovers(history),
        ],
        history,
        folder,
    )


async def test_slow_replies_are_given_up_and_nothing_piles_up_behind_them(
    fresh_stack: FreshStack, tmp_path: Path
) -> None:
    async with behind_proxy(fresh_stack) as (broker, proxy):
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


async def waiting(broker: Stack) -> int:
    async with broker.client() as client:
        view = (await client.get("/health")).json()
    requests: int = view["inference"]["waiting_requests"]
    return requests
