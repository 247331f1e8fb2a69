"""A job that kills every worker that runs it, and the jobs that run beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import checker, size
from tests.chaos.callers import Manner, ask, closed_loop, scripts, session_of
from tests.chaos.evidence import gather, judge
from tests.chaos.history import History
from tests.chaos.nemesis import fleet
from tests.fakes.stack import Stack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]

NEIGHBOURS = 20


async def test_the_neighbours_of_a_poison_job_were_set_aside_with_it(broker: Stack, tmp_path: Path) -> None:
    """Three workers die with all jobs begun; only the one that the third was running looks guilty."""
    rng = size.dice("poison")
    history = History()
    plan = [f"W2@{NEIGHBOURS}"] * 3

    async with session_of(broker.api_key) as session, fleet(broker, plan, size=1) as workers:
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts("poison", rng, Manner(streams=0)),
            history.exchanges,
            callers=NEIGHBOURS,
            jobs=NEIGHBOURS,
            until=lambda: workers.has_killed_all,
        )
        history.kills = workers.kills
        await gather(broker, history, "poison")

    refused = [exchange.code for exchange in history.exchanges if exchange.status != 200]
    size.report("poison", jobs=len(history.exchanges), set_aside=len(refused))
    assert refused == ["poison"]
    judge(
        [
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )
