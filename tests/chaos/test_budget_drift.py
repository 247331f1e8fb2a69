"""Budgets under kills and outages: what Redis counts of an account is what the ledger says, to the
micro-dollar.
"""

from __future__ import annotations

import asyncio
import itertools
import time
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
from tests.chaos.leases import SHORT
from tests.chaos.nemesis import fleet
from tests.fakes.eventually import eventually
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.stack import Stack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(900)]

_BUDGET = 10**12
"""Micro-dollars: never reached, so that every job is counted and none refused."""
_WRITTEN_SECONDS = 30
"""From the end of an outage until every row is there."""


async def settled_counts(broker: Stack, account: AccountId) -> dict[str, int]:
    """What Redis counts of the account's month, once nothing is reserved any more."""

    async def counted() -> dict[str, int]:
        async with Redis.from_url(broker.redis.url) as redis:
            subject = keyspace.holds(account).removesuffix("holds") + f"account:{account}"
            names = ("m:n", "s:n", "s:r")
            values = await redis.hmget(subject, list(names))
        return {name: int(value or 0) for name, value in zip(names, values, strict=True)}

    async def nothing_reserved() -> bool:
        return (await counted())["s:r"] == 0

    await eventually(nothing_reserved, "every reservation settled", within=30)
    return await counted()


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

    counts = await settled_counts(broker, account)
    rows = [row for row in await broker.ledger() if row["account_id"] == account]
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


async def test_a_database_that_is_down_for_a_whole_load_costs_no_call_and_no_row(tmp_path: Path) -> None:
    seconds = 60 if size.is_full() else 4
    postgres = PostgresServer()
    postgres.start()
    account = AccountId("outage")
    history = History()
    try:
        async with Stack(
            apis=2, workers=2, database_url=postgres.url(postgres.create_database()), settings=SHORT
        ) as broker:
            limits = Limits(monthly_spend_micro_usd=_BUDGET, daily_requests=10**9, requests_per_minute=10**6)
            key = await broker.new_api_key(account, account_limits=limits)
            asks = scripts("outage", size.dice("outage"), Manner(streams=0.3))
            async with session_of(key) as session:
                for api in broker.apis:
                    history.exchanges.append(await ask(session, api.url, next(asks)))
                postgres.kill9()
                ends_at = time.monotonic() + seconds
                turn = itertools.cycle(broker.apis)
                await closed_loop(
                    lambda script: ask(session, next(turn).url, script),
                    asks,
                    history.exchanges,
                    callers=24,
                    jobs=24,
                    until=lambda: time.monotonic() > ends_at,
                )
                during = await settled_counts(broker, account)
                await asyncio.to_thread(postgres.start)
                began = time.monotonic()
                await gather(broker, history, "outage", within=_WRITTEN_SECONDS)
            written_after = time.monotonic() - began
            rows = await broker.ledger()
            counts = await settled_counts(broker, account)
    finally:
        postgres.stop(forget=True)

    size.report(
        "database down for a whole load",
        seconds=seconds,
        jobs=len(history.exchanges),
        rows=len(rows),
        written_after_seconds=round(written_after, 2),
        counted_micro_usd=counts["s:n"],
        ledger_micro_usd=sum(row["cost_micro_usd"] for row in rows),
    )
    assert checker.unanswered(history.exchanges) == []
    assert {exchange.status for exchange in history.exchanges} == {200}
    assert during == counts
    assert counts["s:n"] == sum(row["cost_micro_usd"] for row in rows) > 0
    assert counts["m:n"] == len(rows) == len(history.exchanges)
    judge([*checker.ledger_faults(history.ledger, history.exchanges)], history, tmp_path)
