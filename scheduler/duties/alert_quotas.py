"""Budgets that pass a threshold are told to those who asked for it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from redis.exceptions import RedisError

from scheduler.rounds import Failures, OnRound, unheard
from shared.accounting.quota_alerts import QuotaAlerts
from shared.db.engine import DATABASE_ERRORS

_LOOK_SECONDS: Final = 1.0
_CATCH_UP_SECONDS: Final = 300.0


async def alert_quotas(quota_alerts: QuotaAlerts, on_round: OnRound = unheard) -> None:
    """For ever."""
    next_at = time.monotonic()
    failures = Failures("alerts not looked at")
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            if time.monotonic() >= next_at:
                await quota_alerts.catch_up()
                next_at = time.monotonic() + _CATCH_UP_SECONDS
            await quota_alerts.look()
            await quota_alerts.deliver()
            on_round(True)
            failures.end()
        except (RedisError, *DATABASE_ERRORS) as exc:
            on_round(False)
            failures.note(exc)
