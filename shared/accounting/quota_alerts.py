"""When a budget passes a soft threshold, its account is told: once a threshold and period.

settlements ── used, limit ──> note() ── passed 50 % ──> look() ── its own thresholds ──> a row
                                                                      deliver() ──> its URL

What a settlement tells is told once, to a process that may die: catch_up() reads it again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.clock import Clock, SystemClock
from shared.db.engine import writing
from shared.db.repositories import alerts
from shared.db.repositories.alerts import QuotaAlert
from shared.egress.rules import EgressFailed
from shared.egress.transport import GuardedTransport, post
from shared.ids import AccountId
from shared.limits.reservations import Count
from shared.webhooks.events import Event, EventType, note
from shared.webhooks.signing import WebhookSecrets, signed_headers

LOWEST_PERCENT: Final = 50
MAX_TRIES: Final = 12
_A_PAGE: Final = 20
_FIRST_PAUSE: Final = timedelta(seconds=10)
_LONGEST_PAUSE: Final = timedelta(hours=6)
_MEASURES: Final = {"d": "daily_requests", "m": "monthly_requests", "s": "monthly_spend_micro_usd"}


class QuotaAlerts:
    """One a scheduler; several do no harm, save that a hook may be called twice with one id.

    `passed`: the counts of an account that settlements left above half of their limit. Raises RedisError.
    """

    def __init__(
        self,
        database: AsyncEngine,
        transport: GuardedTransport,
        secrets: WebhookSecrets,
        passed: Callable[[AccountId], Awaitable[Sequence[Count]]],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._transport = transport
        self._secrets = secrets
        self._read_passed = passed
        self._clock = clock or SystemClock()
        self._passed: dict[tuple[AccountId, str, str, int], Count] = {}

    def note(self, account: AccountId, counts: Sequence[Count]) -> None:
        """From the ledger, after a settlement. Cheap: most counts are far from any threshold."""
        for count in counts:
            if count.limit > 0 and count.used * 100 >= count.limit * LOWEST_PERCENT:
                self._passed[account, count.subject, count.kind, count.period] = count

    async def catch_up(self) -> None:
        """What a scheduler that died was told, and nobody since. Raises what Redis and the database do."""
        async with self._database.connect() as connection:
            found = await alerts.accounts_that_want_any(connection)
        for account in found:
            self.note(account, await self._read_passed(account))

    async def look(self) -> None:
        """Make a row of each threshold that was passed since. Raises what the database does, and loses
        nothing by it.
        """
        for key, count in tuple(self._passed.items()):
            account, *_ = key
            async with writing(self._database) as connection:
                wanted = await alerts.settings_of(connection, account)
                for percent in () if wanted is None else wanted.thresholds:
                    if count.used * 100 >= count.limit * percent:
                        await _tell(connection, self._alert(account, count, percent))
            if self._passed.get(key) is count:
                del self._passed[key]

    async def deliver(self) -> None:
        """Call the hooks that are due, at once, one of an account: a slow one holds up no other account's.

        Raises what the database does.
        """
        async with self._database.connect() as connection:
            found = await alerts.due(connection, self._clock.now(), limit=_A_PAGE)
        await asyncio.gather(*(self._deliver(alert) for alert in found))

    async def _deliver(self, alert: QuotaAlert) -> None:
        async with self._database.connect() as connection:
            wanted = await alerts.settings_of(connection, alert.account_id)
        delivered = wanted is not None and await self._call(wanted.url, alert)
        now = self._clock.now()
        again = None
        if not delivered and wanted is not None and alert.tries + 1 < MAX_TRIES:
            again = now + min(_FIRST_PAUSE * 2**alert.tries, _LONGEST_PAUSE)
        async with writing(self._database) as connection:
            await alerts.note_try(
                connection, alert, delivered_at=now if delivered else None, next_try_at=again
            )

    async def _call(self, url: str, alert: QuotaAlert) -> bool:
        body = event_of(alert).payload
        secret = self._secrets.of_account(alert.account_id)
        headers = signed_headers([secret], event_id(alert), body, at=self._clock.now())
        try:
            answer = await post(url, self._transport, content=body, headers=headers)
        except EgressFailed as exc:
            logger.info("alert not delivered", account=alert.account_id, error=exc.cause.value)
            return False
        if not answer.is_success:
            logger.info("alert not delivered", account=alert.account_id, status=answer.status_code)
        return answer.is_success

    def _alert(self, account: AccountId, count: Count, percent: int) -> QuotaAlert:
        return QuotaAlert(
            account_id=account,
            subject=count.subject,
            measure=_MEASURES[count.kind],
            period=_period(count),
            threshold_percent=percent,
            used=count.used,
            limit=count.limit,
            at=self._clock.now(),
        )


async def _tell(connection: AsyncConnection, alert: QuotaAlert) -> None:
    """Its own URL by its row, and the endpoints of the account, which webhooks go to."""
    if await alerts.record(connection, alert):
        await note(connection, alert.account_id, event_of(alert))


def event_of(alert: QuotaAlert) -> Event:
    """What is sent."""
    scope, _, name = alert.subject.partition(":")
    data = {
        "account": alert.account_id,
        "scope": scope,
        "id": name,
        "measure": alert.measure,
        "period": alert.period,
        "threshold_percent": alert.threshold_percent,
        "used": alert.used,
        "limit": alert.limit,
    }
    return Event(EventType.QUOTA_THRESHOLD, event_id(alert), alert.at, data)


def event_id(alert: QuotaAlert) -> str:
    """The same however often it is tried."""
    name = f"{alert.account_id}\n{alert.subject}\n{alert.measure}\n{alert.period}\n{alert.threshold_percent}"
    return "evt_" + hashlib.sha256(name.encode()).hexdigest()[:32]


def _period(count: Count) -> str:
    if count.kind == "d":
        return f"day {count.period}"
    return f"{count.period // 12:04d}-{count.period % 12 + 1:02d}"
