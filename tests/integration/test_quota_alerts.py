"""Alerts of budgets: rows made once, tried until a hook takes them, then given up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.accounting.quota_alerts import MAX_TRIES, QuotaAlerts
from shared.clock import ManualClock
from shared.db.engine import create_engine
from shared.db.repositories import accounts, alerts
from shared.db.repositories.alerts import AlertSettings
from shared.db.tables import quota_alert
from shared.egress.rules import EgressRules
from shared.egress.transport import GuardedTransport
from shared.ids import AccountId
from shared.limits.reservations import Count
from shared.settings import EgressSettings

ACME = AccountId("acme")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await accounts.ensure(connection, ACME, name="Acme", at=ManualClock().now())
        await alerts.set_settings(connection, ACME, AlertSettings("https://hooks.example/", (80, 100)))
    yield engine
    await engine.dispose()


async def nobody(_: str, __: int) -> list[str]:
    return []


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watch(database: AsyncEngine, clock: ManualClock) -> QuotaAlerts:
    rules = EgressRules.of(EgressSettings(), production=True)
    return QuotaAlerts(database, GuardedTransport(rules, look_up=nobody), clock=clock)


def spent(used: int, limit: int = 100, period: int = 2026 * 12 + 10) -> Count:
    return Count("account:acme", "s", period, used, limit)


async def rows(database: AsyncEngine) -> list[tuple[int, str, int, int]]:
    async with database.connect() as connection:
        found = await connection.execute(
            select(quota_alert).order_by(quota_alert.c.period, quota_alert.c.threshold_percent)
        )
        return [(row.threshold_percent, row.period, row.used, row.tries) for row in found]


async def test_a_threshold_is_a_row_once_a_period(database: AsyncEngine, watch: QuotaAlerts) -> None:
    for used in (10, 79, 80, 95, 100, 120):
        watch.note(ACME, [spent(used)])
        await watch.look()
    watch.note(ACME, [spent(85, period=2026 * 12 + 11)])
    watch.note(ACME, [spent(10**9, limit=-1, period=2027 * 12)])
    await watch.look()

    assert await rows(database) == [
        (80, "2026-11", 80, 0),
        (100, "2026-11", 100, 0),
        (80, "2026-12", 85, 0),
    ]


async def test_a_hook_that_never_answers_is_given_up(
    database: AsyncEngine, watch: QuotaAlerts, clock: ManualClock
) -> None:
    watch.note(ACME, [spent(85)])
    await watch.look()
    tries = []
    for _ in range(MAX_TRIES + 3):
        await watch.deliver()
        tries.append((await rows(database))[0][3])
        clock.advance(timedelta(hours=6).total_seconds())

    assert tries == [*range(1, MAX_TRIES + 1), MAX_TRIES, MAX_TRIES, MAX_TRIES]


async def test_an_account_that_wants_none_has_none(database: AsyncEngine, watch: QuotaAlerts) -> None:
    async with database.begin() as connection:
        await alerts.set_settings(connection, ACME, None)
    watch.note(ACME, [spent(100)])
    await watch.look()

    assert await rows(database) == []
