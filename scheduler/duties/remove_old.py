"""What has been kept for as long as the settings say is removed, a batch at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.clock import Clock
from shared.db.engine import DATABASE_ERRORS, writing
from shared.db.repositories import (
    audit,
    batch_lines,
    batches,
    conversations,
    jobs,
    refresh_tokens,
    usage,
    webhooks,
)
from shared.settings import Settings

BATCH: Final = 500


class _Remove(Protocol):
    def __call__(self, connection: AsyncConnection, before: datetime, /, *, limit: int) -> Awaitable[int]: ...


async def remove_old(database: AsyncEngine, settings: Settings, *, clock: Clock) -> dict[str, int]:
    """How much of what went. What fails is left for the next time."""
    kept: list[tuple[str, int, _Remove]] = [
        ("usage", settings.usage_retain_days, usage.remove_before),
        ("audit", settings.audit_retain_days, audit.remove_before),
        ("conversations", settings.conversation_retain_days, conversations.remove_before),
        ("jobs", settings.jobs.retain_days, jobs.remove_before),
        ("webhooks", settings.webhook_retain_days, webhooks.remove_before),
        ("batch lines", settings.jobs.retain_days, batch_lines.remove_before),
        ("batches", settings.jobs.retain_days, batches.remove_before),
    ]
    removed: dict[str, int] = {}
    try:
        for name, days, remove in kept:
            if days:
                before = clock.now() - timedelta(days=days)
                removed[name] = await _all_of(database, lambda c, r=remove, b=before: r(c, b, limit=BATCH))  # type: ignore[misc]  # mypy types no lambda with a default
        removed["results"] = await _all_of(database, lambda c: jobs.drop_results(c, clock.now(), limit=BATCH))
        async with writing(database) as connection:
            removed["sessions"] = await refresh_tokens.remove_expired(connection, clock.now())
    except DATABASE_ERRORS as exc:
        logger.warning("old rows not removed", error=type(exc).__name__)
    return removed


async def _all_of(database: AsyncEngine, remove: Callable[[AsyncConnection], Awaitable[int]]) -> int:
    """In transactions of a batch each, so that nothing waits for long."""
    removed = 0
    while True:
        async with writing(database) as connection:
            batch = await remove(connection)
        removed += batch
        if batch < BATCH:
            return removed
