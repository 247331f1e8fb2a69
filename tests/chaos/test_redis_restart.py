"""Redis killed and started again, under load."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.chaos import checker, size
from tests.chaos.callers import Manner, Script, ask, closed_loop, scripts, session_of
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Ending, Exchange, History
from tests.fakes.eventually import eventually
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]

BACK_SECONDS = 3.0
REFUSAL_SECONDS = 0.3


async def test_restarts_of_redis_lose_nothing(fresh_stack: FreshStack, tmp_path: Path) -> None:
    rng = size.dice("redis restarts")
    history = History()
    restarts = 5 if size.is_full() else 3
    broker = await fresh_stack(workers=2)

    asks = scripts("redis", rng, Manner())
    refused: list[Exchange] = []

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:

        async def send(script: Script) -> Exchange:
            return await ask(session, broker.url, script)

        async def restart() -> None:
            for _ in range(restarts):
                await _answers_since(history, time.time(), rng.randint(5, 40))
                killed_at = time.time()
                await asyncio.to_thread(broker.redis.kill9)
                # The others wait for what they asked before.
                refused.extend([await send(next(asks)) for _ in range(rng.randint(2, 40))])
                await asyncio.to_thread(broker.redis.start)
                history.outages.append((killed_at, time.time()))
                await eventually(lambda: _first_success(history, -1), "an answer after the restart")

        restarting = group.create_task(restart(), name="restart")
        await closed_loop(send, asks, history.exchanges, callers=24, jobs=size.jobs(), until=restarting.done)
    history.exchanges += refused
    await gather(broker, history, "redis")

    def was_down(exchange: Exchange) -> bool:
        """Refused with 503 by a server that could not reach the queue at some time of the exchange."""
        away = any(exchange.began_at <= end and exchange.ended_at >= start for start, end in history.outages)
        return exchange.status == 503 and exchange.ending is Ending.REFUSED and away

    missed = checker.unanswered(history.exchanges, excused=was_down)
    back = [_first_success(history, turn) - end for turn, (_, end) in enumerate(history.outages)]
    size.report(
        "redis kill -9 and restart",
        jobs=len(history.exchanges),
        restarts=len(history.outages),
        missing=len(missed),
        refused_503=sum(e.ending is Ending.REFUSED for e in history.exchanges),
        extra_calls=checker.count_calls(history.calls, []).extra,
        slowest_refusal_seconds=round(max(e.ended_at - e.began_at for e in refused), 3),
        slowest_back_seconds=round(max(back), 2),
        down_seconds=round(sum(end - start for start, end in history.outages), 2),
    )
    assert max(back) <= BACK_SECONDS
    assert {e.status for e in refused} == {503}
    assert max(e.ended_at - e.began_at for e in refused) <= REFUSAL_SECONDS
    assert [process.name for process in broker.processes if not process.is_running] == []
    judge(
        [
            *missed,
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.surplus_calls(history.calls, []),
            *checker.ledger_faults(history.ledger, history.exchanges, orphans=was_down),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def _answers_since(history: History, since: float, count: int) -> None:
    await eventually(
        lambda: sum(e.ending is Ending.WHOLE and e.ended_at > since for e in history.exchanges) >= count,
        f"{count} answers",
    )


def _first_success(history: History, turn: int) -> float:
    """When a caller who asked after that outage was first answered; 0 before."""
    end = history.outages[turn][1]
    answered = [e.ended_at for e in history.exchanges if e.began_at > end and e.ending is Ending.WHOLE]
    return min(answered, default=0.0)
