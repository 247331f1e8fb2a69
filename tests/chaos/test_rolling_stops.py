"""Workers that are asked to stop, under load."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.chaos import checker, size
from tests.chaos.callers import Manner, ask, closed_loop, scripts, session_of
from tests.chaos.evidence import gather, judge
from tests.chaos.history import History
from tests.chaos.leases import RECOVERY_SECONDS
from tests.chaos.nemesis import consumer_of, held_by, redis_of
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]


async def test_rolling_stops_cost_no_answer_and_no_call(broker: Stack, tmp_path: Path) -> None:
    rng = size.dice("rolling stops")
    history = History()
    stops: list[tuple[int, float]] = []
    planned = 10 if size.is_full() else 3

    async def roll() -> None:
        """A new worker comes before the oldest goes, which holds jobs when it is asked to."""
        for _ in range(planned):
            await broker.start_worker()
            oldest = broker.workers[0]
            await until_it_holds_jobs(broker, oldest)
            began = time.monotonic()
            stops.append((await broker.sigterm(oldest), time.monotonic() - began))

    await broker.start_worker()
    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        group.create_task(roll(), name="roll")
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts("roll", rng, Manner()),
            history.exchanges,
            callers=24,
            jobs=size.jobs(),
            until=lambda: len(stops) == planned,
        )
    await gather(broker, history, "roll")
    for worker in list(broker.workers):
        await broker.sigterm(worker)

    size.report(
        "rolling SIGTERM",
        jobs=len(history.exchanges),
        stops=len(stops),
        missing=len(checker.unanswered(history.exchanges)),
        extra_calls=checker.count_calls(history.calls, []).extra,
        slowest_stop_seconds=round(max(seconds for _, seconds in stops), 2),
    )
    assert [code for code, _ in stops] == [0] * planned
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


async def test_a_second_sigterm_hands_running_jobs_to_another_worker(broker: Stack, tmp_path: Path) -> None:
    rng = size.dice("second SIGTERM")
    history = History()
    slow = Manner(streams=0, delay_ms=(3000, 3000))
    asks = scripts("hand", rng, slow)

    leaving = await broker.start_worker()
    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        waiting = [group.create_task(ask(session, broker.url, next(asks))) for _ in range(20)]
        await eventually(lambda: _calls(broker, "hand") == 20, "20 open calls")
        staying = broker.spawn_worker()
        leaving.popen.terminate()
        await eventually(lambda: leaving.events("worker draining"), "a draining worker")
        began = time.monotonic()
        code = await broker.sigterm(leaving)
        stopped_in = time.monotonic() - began
        await eventually(lambda: _calls(broker, "hand") == 40, "20 calls again", within=5)
        again_in = time.monotonic() - began
    history.exchanges = [task.result() for task in waiting]
    await gather(broker, history, "hand")
    await broker.sigterm(staying)

    size.report("second SIGTERM", stopped_in=round(stopped_in, 2), again_in=round(again_in, 2))
    assert code == 0
    assert leaving.events("worker stopped")
    assert stopped_in <= 2
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def test_a_worker_killed_while_it_hands_back_costs_no_answer(broker: Stack, tmp_path: Path) -> None:
    rng = size.dice("killed while handing back")
    history = History()
    asks = scripts("torn", rng, Manner(streams=0, delay_ms=(3000, 3000)))

    leaving = await broker.start_worker(faultpoints=f"W10@{rng.randint(1, 20)}")
    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        waiting = [group.create_task(ask(session, broker.url, next(asks))) for _ in range(20)]
        await eventually(lambda: _calls(broker, "torn") == 20, "20 open calls")
        staying = broker.spawn_worker()
        leaving.popen.terminate()
        await eventually(lambda: leaving.events("worker draining"), "a draining worker")
        code = await broker.sigterm(leaving)
        killed_at = time.monotonic()
        await eventually(lambda: _calls(broker, "torn") == 40, "20 calls again", within=RECOVERY_SECONDS)
        again_in = time.monotonic() - killed_at
    history.exchanges = [task.result() for task in waiting]
    await gather(broker, history, "torn")
    await broker.sigterm(staying)

    size.report("killed at W10", again_in=round(again_in, 2))
    assert code == -signal.SIGKILL
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def until_it_holds_jobs(broker: Stack, worker: Process) -> None:
    async with redis_of(broker) as redis:
        await eventually(lambda: held_by(redis, consumer_of(worker)), f"jobs in {worker.name}", within=30)


def _calls(broker: Stack, prefix: str) -> int:
    return sum((call.cue or "").startswith(prefix) for call in broker.calls())
