"""The one place where batches end, and are told of to those who want to hear it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories import batches
from shared.db.repositories.batches import Batch
from shared.domain.batch import BatchStatus
from shared.webhooks.events import Event, EventType, note

_EVENTS: Final[Mapping[BatchStatus, EventType]] = {
    BatchStatus.COMPLETED: EventType.BATCH_COMPLETED,
    BatchStatus.FAILED: EventType.BATCH_FAILED,
    BatchStatus.EXPIRED: EventType.BATCH_EXPIRED,
    BatchStatus.CANCELLED: EventType.BATCH_CANCELLED,
}


async def end(
    connection: AsyncConnection, batch: Batch, to: BatchStatus, *, at: datetime, **values: Any
) -> bool:
    """In the caller's transaction. False where it ended already."""
    if not await batches.change(connection, batch, to, at=at, **values):
        return False
    data: dict[str, Any] = {"id": batch.id, "status": to.value}
    if batch.notes:
        data["metadata"] = batch.notes
    await note(connection, batch.account_id, Event(_EVENTS[to], batch.id, at, data), url=batch.webhook_url)
    return True
