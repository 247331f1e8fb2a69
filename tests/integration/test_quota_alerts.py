"""Alerts of budgets: rows made once, tried until a hook takes them, then given up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.accounting.quota_alerts import MAX_TRIES, QuotaAlerts
from shared.clock import ManualClock
from shared.db.engine import create_engine
from shared.db.repositories import accounts, alerts, webhook_endpoints, webhooks
from shared.db.repositories.alerts import AlertSettings
from shared.db.repositories.webhook_endpoints import Endpoint
from shared.db.tables import quota_alert
from shared.egress.rules import EgressRules
from shared.egress.transport import GuardedTransport
from shared.ids import AccountId, WebhookEndpointId
from shared.limits.reservations import Count
from shared.settings import EgressSettings
from shared.webhooks.signing import WebhookSecrets

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
    return a_watch(database, clock)


def a_watch(database: AsyncEngine, clock: ManualClock) -> QuotaAlerts:
    rules = EgressRules.of(EgressSettings(), production=True)
    secrets = WebhookSecrets(b"pepper of the tests, 32 bytes or so")
    return QuotaAlerts(database, GuardedTransport(rules, look_up=nobody), secrets, passed, clock=clock)


async def passed(account: AccountId) -> list[Count]:
    """What Redis keeps, whoever was told of it."""
    return [spent(85)] if account == ACME else []


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


async def test_what_a_scheduler_heard_that_died_is_found_again(
    database: AsyncEngine, clock: ManualClock
) -> None:
    a_watch(database, clock).note(ACME, [spent(85)])

    another = a_watch(database, clock)
    await another.catch_up()
    await another.look()

    assert await rows(database) == [(80, "2026-11", 85, 0)]


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


async def test_the_account_s_endpoints_hear_of_it_once_as_well(
    database: AsyncEngine, watch: QuotaAlerts, clock: ManualClock
) -> None:
    endpoint = Endpoint(
        WebhookEndpointId("wh_1"), ACME, "https://hooks.example/", "", ("quota.threshold",), 1, clock.now()
    )
    async with database.begin() as connection:
        await webhook_endpoints.create(connection, endpoint)
    for used in (85, 90):
        watch.note(ACME, [spent(used)])
        await watch.look()

    async with database.connect() as connection:
        (told,) = await webhooks.page(connection, ACME, limit=10)
    assert (told.endpoint_id, told.type) == ("wh_1", "quota.threshold")
    assert json.loads(told.payload)["data"]["used"] == 85


async def test_of_each_account_one_alert_has_its_turn(
    database: AsyncEngine, watch: QuotaAlerts, clock: ManualClock
) -> None:
    """So that the many of one account, whose hook is slow, wait for each other alone."""
    other = AccountId("other")
    async with database.begin() as connection:
        await accounts.ensure(connection, other, name="Other", at=clock.now())
        await alerts.set_settings(connection, other, AlertSettings("https://hooks.example/", (80,)))
    watch.note(ACME, [spent(100), spent(100, period=2026 * 12 + 9)])
    await watch.look()
    clock.advance(1)
    watch.note(other, [Count("account:other", "s", 2026 * 12 + 10, 90, 100)])
    await watch.look()

    async with database.connect() as connection:
        due = await alerts.due(connection, clock.now(), limit=20)
        one = await alerts.due(connection, clock.now(), limit=1)

    assert [alert.account_id for alert in due] == [ACME, other]
    assert [alert.account_id for alert in one] == [ACME]
