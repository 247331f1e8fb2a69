"""Budgets that pass a threshold are told to those who asked for it."""

from __future__ import annotations

import asyncio
from typing import Final

from loguru import logger

from shared.accounting.quota_alerts import QuotaAlerts
from shared.db.engine import DATABASE_ERRORS

_LOOK_SECONDS: Final = 1.0


async def alert_quotas(quota_alerts: QuotaAlerts) -> None:
    """For ever."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            await quota_alerts.look()
            await quota_alerts.deliver()
        except DATABASE_ERRORS as exc:
            logger.debug("alerts not looked at", error=type(exc).__name__)
