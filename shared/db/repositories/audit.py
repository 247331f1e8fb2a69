"""Administrative acts: who did what to what. Append-only, until they are old."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, delete, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import audit_event
from shared.ids import AccountId


@dataclass(frozen=True, slots=True)
class AuditEvent:
    id: str
    at: datetime
    account_id: AccountId | None
    actor: str
    act: str
    object_id: str | None
    outcome: str
    request_id: str | None
    address: str | None
    details: dict[str, object]


async def page(
    connection: AsyncConnection,
    account: AccountId | None,
    *,
    act: str | None = None,
    actor: str | None = None,
    after: tuple[datetime, str] | None = None,
    limit: int,
) -> list[AuditEvent]:
    """Newest first, from behind `after`. `account`: None for all acts, which only operators may see."""
    which = []
    if account is not None:
        which.append(audit_event.c.account_id == account)
    if act is not None:
        which.append(audit_event.c.act == act)
    if actor is not None:
        which.append(audit_event.c.actor == actor)
    if after is not None:
        at, event_id = after
        which.append(or_(audit_event.c.at < at, and_(audit_event.c.at == at, audit_event.c.id < event_id)))
    rows = await connection.execute(
        select(audit_event)
        .where(*which)
        .order_by(audit_event.c.at.desc(), audit_event.c.id.desc())
        .limit(limit)
    )
    return [AuditEvent(**row._mapping) for row in rows]


async def remove_before(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """How many went; fewer than `limit` when no more are left."""
    old = select(audit_event.c.id).where(audit_event.c.at < before).limit(limit)
    return (await connection.execute(delete(audit_event).where(audit_event.c.id.in_(old)))).rowcount


async def record(
    connection: AsyncConnection,
    *,
    at: datetime,
    account: AccountId | None,
    actor: str,
    act: str,
    object_id: str | None,
    outcome: str = "done",
    request_id: str | None = None,
    address: str | None = None,
    details: Mapping[str, object] | None = None,
) -> None:
    """In the transaction of the act itself, so that there is none without the other.

    `details` holds no secret.
    """
    await connection.execute(
        insert(audit_event).values(
            id=f"aud_{int(at.timestamp() * 1000):012x}{os.urandom(8).hex()}",
            at=at,
            account_id=account,
            actor=actor,
            act=act,
            object_id=object_id,
            outcome=outcome,
            request_id=request_id,
            address=address,
            details=dict(details or {}),
        )
    )
