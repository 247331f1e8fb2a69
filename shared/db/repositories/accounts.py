"""Accounts: the tenants."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_new
from shared.db.tables import account
from shared.domain.allowance import Limits, Tier
from shared.ids import AccountId


async def ensure(connection: AsyncConnection, account_id: AccountId, *, name: str, at: datetime) -> None:
    """Create the account unless there is one with this id."""
    await insert_new(connection, account, [{"id": account_id, "name": name, "created_at": at}])


async def set_allowance(
    connection: AsyncConnection, account_id: AccountId, *, tier: Tier, limits: Limits
) -> bool:
    """False when there is no such account."""
    changed = await connection.execute(
        update(account)
        .where(account.c.id == account_id)
        .values(tier=tier.value, limits=limits.to_fields() or None)
    )
    return changed.rowcount == 1
