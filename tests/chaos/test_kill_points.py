"""Workers that are killed -9 at every point of a job's life, under load."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos import checker, size
from tests.chaos.callers import Manner, ask, closed_loop, scripts, session_of
from tests.chaos.checker import met_by
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Exchange, History
from tests.chaos.leases import RECOVERY_SECONDS
from tests.chaos.nemesis import fleet
from tests.fakes.stack import Stack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]


@pytest.mark.parametrize("point", ["W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W11"])
async def test_killed_workers_cost_no_answer(point: str, broker: Stack, tmp_path: Path) -> None:
    rng = size.dice(point)
    history = History()
    prefix = f"kill-{point}"
    manner = Manner(streams=1.0 if point == "W5" else 0.3, refusals=int(point == "W9"))
    kills, latest = (8, 60) if size.is_full() else (2, 12)
    plan = [f"{point}@{rng.randint(2, latest)}" for _ in range(kills)]
    size_of_fleet = 2
    if point == "W11":
        # Only what a killed worker left can be reclaimed, and nobody else may be there to do it.
        size_of_fleet = 1
        plan = [f"{name}@{rng.randint(2, 4)}" for _ in range(kills // 2) for name in ("W4", "W11")]
    began = time.monotonic()

    async with session_of(broker.api_key) as session, fleet(broker, plan, size=size_of_fleet) as workers:
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts(prefix, rng, manner),
            history.exchanges,
            callers=24,
            jobs=size.jobs(),
            until=lambda: workers.has_killed_all,
        )
        await workers.recovered()
        history.kills = workers.kills
        await gather(broker, history, prefix)

    jobs = {row.request: row.job for row in history.ledger}

    def is_excused(exchange: Exchange) -> bool:
        return checker.explained_by_kills(exchange, met_by(history.kills, jobs.get(exchange.name)))

    missed = checker.unanswered(history.exchanges, excused=is_excused)
    count = checker.count_calls(history.calls, history.kills)
    took = checker.recovery_seconds(history.kills)
    size.report(
        f"kill at {point}",
        jobs=len(history.exchanges),
        kills=len(history.kills),
        met=sum(len(kill.in_flight) for kill in history.kills),
        missing=len(missed),
        set_aside=checker.set_aside(history.exchanges),
        interrupted_streams=sum(e.code == "stream_interrupted" for e in history.exchanges),
        extra_calls=count.extra,
        open_at_kills=count.open_at_kills,
        unrecorded_at_kills=count.unrecorded_at_kills,
        slowest_recovery_seconds=round(took[-1], 2) if took else None,
        seconds=round(time.monotonic() - began, 1),
    )
    assert len(history.kills) == len(plan)
    # Jobs that two kills met run one at a time, so that a third meets one of them at most.
    assert checker.set_aside(history.exchanges) <= len(plan)
    judge(
        [
            *missed,
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.surplus_calls(history.calls, history.kills),
            # With one worker at a time the next one must start first, however long that takes.
            *(checker.late_recoveries(history.kills, within=RECOVERY_SECONDS) if size_of_fleet > 1 else ()),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )
