"""Workers that are frozen for longer than their lease, and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.chaos import checker, size
from tests.chaos.callers import Manner, ask, closed_loop, scripts, session_of
from tests.chaos.checker import met_by
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Exchange, History, Kill
from tests.chaos.leases import RECOVERY_SECONDS
from tests.chaos.nemesis import consumer_of, held_by, redis_of, watch
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]
_REFUSED = ("late result refused", "lease lost, job dropped")


async def test_a_worker_that_comes_back_changes_nothing(broker: Stack, tmp_path: Path) -> None:
    rng = size.dice("zombies")
    history = History()
    freezes = 8 if size.is_full() else 2

    async def freeze() -> None:
        for turn in range(freezes):
            zombie = broker.workers[turn % 2]
            history.kills.append(await _freeze_until_its_jobs_ran_elsewhere(broker, zombie))
            await _thaw_until_a_late_result_was_refused(broker, zombie)

    workers = [await broker.start_worker(), await broker.start_worker()]
    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        freezing = group.create_task(freeze(), name="freeze")
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts("zombie", rng, Manner()),
            history.exchanges,
            callers=24,
            jobs=size.jobs(),
            until=freezing.done,
        )
    await gather(broker, history, "zombie")
    refused = _refusals(workers)
    for worker in list(broker.workers):
        await broker.sigterm(worker)

    jobs = {row.request: row.job for row in history.ledger}

    def is_excused(exchange: Exchange) -> bool:
        return checker.explained_by_kills(exchange, met_by(history.kills, jobs.get(exchange.name)))

    missed = checker.unanswered(history.exchanges, excused=is_excused)
    count = checker.count_calls(history.calls, history.kills)
    size.report(
        "SIGSTOP and SIGCONT",
        jobs=len(history.exchanges),
        freezes=len(history.kills),
        met=sum(len(kill.in_flight) for kill in history.kills),
        missing=len(missed),
        set_aside=checker.set_aside(history.exchanges),
        interrupted_streams=sum(e.code == "stream_interrupted" for e in history.exchanges),
        late_results_refused=refused,
        extra_calls=count.extra,
        slowest_recovery_seconds=round(max(checker.recovery_seconds(history.kills), default=0.0), 2),
        met_with_a_call=count.open_at_kills + count.unrecorded_at_kills,
    )
    assert refused >= freezes
    assert checker.set_aside(history.exchanges) <= freezes
    judge(
        [
            *missed,
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.surplus_calls(history.calls, history.kills),
            *checker.late_recoveries(history.kills, within=RECOVERY_SECONDS),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def _freeze_until_its_jobs_ran_elsewhere(broker: Stack, zombie: Process) -> Kill:
    consumer = consumer_of(zombie)
    async with redis_of(broker) as redis:

        async def is_calling() -> bool:
            """Several calls: one of them will still be open when the signal arrives."""
            held = await held_by(redis, consumer)
            return sum(call.is_open and call.job in held for call in broker.calls()) >= 3

        await eventually(is_calling, f"calls of {zombie.name}", within=30)
        broker.sigstop(zombie)
        at = time.time()
        kill = Kill(at, zombie.name, checker.FREEZE, frozenset(await held_by(redis, consumer)))
    await watch(broker, kill, {consumer})
    return kill


async def _thaw_until_a_late_result_was_refused(broker: Stack, zombie: Process) -> None:
    refused = _refusals([zombie])
    broker.sigcont(zombie)
    await eventually(lambda: _refusals([zombie]) > refused, f"a late result of {zombie.name}")


def _refusals(workers: Iterable[Process]) -> int:
    return sum(len(worker.events(message)) for worker in workers for message in _REFUSED)
