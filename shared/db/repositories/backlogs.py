"""How much of what the scheduler does waits in the database, over all accounts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import batch, webhook_delivery
from shared.domain.batch import OPEN


@dataclass(frozen=True, slots=True)
class Backlogs:
    """`due_webhooks`: whose time has come and that nobody sends; `due_since`: of the first of them.

    `open_lines`: requests of open batches without an answer, as of each batch's last count.
    """

    due_webhooks: int
    due_since: datetime | None
    open_lines: int


async def look(connection: AsyncConnection, *, now: datetime) -> Backlogs:
    due = (
        await connection.execute(
            select(func.count().label("many"), func.min(webhook_delivery.c.next_try_at).label("first")).where(
                webhook_delivery.c.next_try_at <= now
            )
        )
    ).one()
    has = batch.c
    unanswered = has.total - has.completed - has.failed - has.cancelled - has.expired
    lines = await connection.scalar(
        select(func.sum(unanswered)).where(has.status.in_([status.value for status in OPEN]))
    )
    return Backlogs(due.many, due.first, int(lines or 0))
