"""Budgets under kills: what Redis counts of an account is what the ledger says, to the micro-dollar."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared import keyspace
from shared.domain.allowance import Limits
from shared.ids import AccountId
from tests.chaos import checker, size
from tests.chaos.callers import Manner, ask, closed_loop, scripts, session_of
from tests.chaos.evidence import gather, judge
from tests.chaos.history import History
from tests.chaos.nemesis import fleet
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]

_BUDGET = 10**12
"""Micro-dollars: never reached, so that every job is counted and none refused."""


@pytest.mark.parametrize("point", ["W7", "W8"])
async def test_kills_after_the_answer_leave_no_drift_between_budget_and_ledger(
    point: str, broker: Stack, tmp_path: Path
) -> None:
    rng = size.dice(f"drift-{point}")
    history = History()
    prefix = f"drift-{point}"
    account = AccountId(prefix)
    key = await broker.new_api_key(account, account_limits=Limits(monthly_spend_micro_usd=_BUDGET))
    kills, latest = (8, 60) if size.is_full() else (2, 12)
    plan = [f"{point}@{rng.randint(2, latest)}" for _ in range(kills)]

    async with session_of(key) as session, fleet(broker, plan, size=2) as workers:
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts(prefix, rng, Manner(streams=0.3)),
            history.exchanges,
            callers=24,
            jobs=size.jobs(),
            until=lambda: workers.has_killed_all,
        )
        await workers.recovered()
        history.kills = workers.kills
        await gather(broker, history, prefix)

    async def counted() -> dict[str, int]:
        async with Redis.from_url(broker.redis.url) as redis:
            subject = keyspace.holds(account).removesuffix("holds") + f"account:{account}"
            names = ("m:n", "s:n", "s:r")
            values = await redis.hmget(subject, list(names))
        return {name: int(value or 0) for name, value in zip(names, values, strict=True)}

    async def nothing_reserved() -> bool:
        return (await counted())["s:r"] == 0

    await eventually(nothing_reserved, "every reservation settled", within=30)
    rows = [row for row in await broker.ledger() if row["account_id"] == account]
    counts = await counted()
    size.report(
        f"drift at {point}",
        jobs=len(history.exchanges),
        kills=len(history.kills),
        ledger_rows=len(rows),
        ledger_micro_usd=sum(row["cost_micro_usd"] for row in rows),
        counted_micro_usd=counts["s:n"],
    )
    assert len(history.kills) == len(plan)
    assert counts["s:n"] == sum(row["cost_micro_usd"] for row in rows) > 0
    assert counts["m:n"] == len(rows) == len({row["job_id"] for row in rows})
    judge([*checker.ledger_faults(history.ledger, history.exchanges)], history, tmp_path)
