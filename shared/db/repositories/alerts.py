"""Soft thresholds of budgets: what an account wants to hear of, and what it was told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_new
from shared.db.tables import account, quota_alert
from shared.ids import AccountId


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """`thresholds`: percent of a limit."""

    url: str
    thresholds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QuotaAlert:
    """`subject`: whose limit, such as `account:acme`; `period`: the day or month, as the counts have it."""

    account_id: AccountId
    subject: str
    measure: str
    period: str
    threshold_percent: int
    used: int
    limit: int
    at: datetime
    tries: int = 0


async def settings_of(connection: AsyncConnection, account_id: AccountId) -> AlertSettings | None:
    stored: dict[str, Any] | None = await connection.scalar(
        select(account.c.alerts).where(account.c.id == account_id)
    )
    return None if not stored else AlertSettings(stored["url"], tuple(stored["thresholds"]))


async def accounts_that_want_any(connection: AsyncConnection) -> list[AccountId]:
    found = await connection.scalars(select(account.c.id).where(account.c.alerts.is_not(None)))
    return [AccountId(name) for name in found]


async def set_settings(
    connection: AsyncConnection, account_id: AccountId, settings: AlertSettings | None
) -> None:
    stored = None if settings is None else {"url": settings.url, "thresholds": list(settings.thresholds)}
    await connection.execute(update(account).where(account.c.id == account_id).values(alerts=stored))


async def record(connection: AsyncConnection, alert: QuotaAlert) -> bool:
    """Once for each threshold of a period: again changes nothing, and is False. It is due at once."""
    known = await connection.scalar(select(quota_alert.c.at).where(*_is(alert)))
    if known is not None:
        return False
    values = {name: getattr(alert, name) for name in QuotaAlert.__dataclass_fields__}
    await insert_new(connection, quota_alert, [{**values, "next_try_at": alert.at}])
    return True


async def due(connection: AsyncConnection, now: datetime, *, limit: int) -> list[QuotaAlert]:
    """Not delivered yet, and to be tried now: of each of `limit` accounts the one that is due longest."""
    is_due = quota_alert.c.delivered_at.is_(None), quota_alert.c.next_try_at <= now
    of_each = func.row_number().over(
        partition_by=quota_alert.c.account_id, order_by=(quota_alert.c.next_try_at, quota_alert.c.at)
    )
    turns = select(quota_alert, of_each.label("turn")).where(*is_due).subquery()
    rows = await connection.execute(
        select(turns).where(turns.c.turn == 1).order_by(turns.c.next_try_at).limit(limit)
    )
    return [_alert(row) for row in rows]


async def note_try(
    connection: AsyncConnection,
    alert: QuotaAlert,
    *,
    delivered_at: datetime | None,
    next_try_at: datetime | None,
) -> None:
    """`next_try_at`: None where it is not tried again."""
    await connection.execute(
        update(quota_alert)
        .where(*_is(alert))
        .values(tries=alert.tries + 1, delivered_at=delivered_at, next_try_at=next_try_at)
    )


def _is(alert: QuotaAlert) -> tuple[ColumnElement[bool], ...]:
    return (
        quota_alert.c.account_id == alert.account_id,
        quota_alert.c.subject == alert.subject,
        quota_alert.c.measure == alert.measure,
        quota_alert.c.period == alert.period,
        quota_alert.c.threshold_percent == alert.threshold_percent,
    )


def _alert(row: Row[Any]) -> QuotaAlert:
    return QuotaAlert(**{name: getattr(row, name) for name in QuotaAlert.__dataclass_fields__})
