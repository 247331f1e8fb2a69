"""Endpoints that are not called any more, and what was on its way to them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories import webhook_endpoints, webhooks
from shared.db.repositories.webhook_endpoints import Endpoint


class Because(StrEnum):
    ASKED = "asked"
    """Somebody of its account did it."""
    GONE = "gone"
    """It answered 410."""
    FAILING = "failing"
    """It failed for days without one success."""


async def disable(
    connection: AsyncConnection, endpoint: Endpoint, because: Because, *, at: datetime
) -> Endpoint:
    """`endpoint`: as it was found for update. It stays until somebody enables it again."""
    disabled = endpoint.disabled(because, at=at)
    await webhook_endpoints.save(connection, disabled)
    await webhooks.give_up_all_of(connection, endpoint.id, at=at)
    return disabled
