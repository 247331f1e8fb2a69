"""Administrative acts: who did what to what. Append-only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import audit_event
from shared.ids import AccountId


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
