"""Accounts: the tenants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_new
from shared.db.tables import account
from shared.domain.allowance import Limits, Tier
from shared.errors import Conflict
from shared.ids import AccountId


class AccountTaken(Conflict):
    code = "account_taken"

    def __init__(self) -> None:
        super().__init__("There is an account with this id already.", param="id")


@dataclass(frozen=True, slots=True)
class AccountRecord:
    id: AccountId
    name: str
    tier: Tier
    limits: Limits
    created_at: datetime


async def ensure(connection: AsyncConnection, account_id: AccountId, *, name: str, at: datetime) -> None:
    """Create the account unless there is one with this id."""
    await insert_new(connection, account, [{"id": account_id, "name": name, "created_at": at}])


async def create(
    connection: AsyncConnection, account_id: AccountId, *, name: str, tier: Tier, limits: Limits, at: datetime
) -> None:
    """Raises AccountTaken; the transaction is then over."""
    row = {
        "id": account_id,
        "name": name,
        "tier": tier.value,
        "limits": limits.to_fields() or None,
        "created_at": at,
    }
    try:
        await connection.execute(insert(account).values(row))
    except IntegrityError as exc:
        raise AccountTaken from exc


async def hold(connection: AsyncConnection, account_id: AccountId) -> bool:
    """Until the transaction ends, nobody else holds the account. False: there is none.

    The first statement of a transaction: on SQLite, what was read before could not be written any more.
    """
    held = update(account).where(account.c.id == account_id).values(id=account.c.id)
    return (await connection.execute(held)).rowcount == 1


async def find(connection: AsyncConnection, account_id: AccountId) -> AccountRecord | None:
    found = (await connection.execute(select(account).where(account.c.id == account_id))).one_or_none()
    return None if found is None else _record(found)


async def list_for_operator(
    connection: AsyncConnection, *, after: str = "", limit: int = 100
) -> list[AccountRecord]:
    """All of them, by id; never behind a route of an account."""
    page = select(account).where(account.c.id > after).order_by(account.c.id).limit(limit)
    return [_record(row) for row in await connection.execute(page)]


async def change(
    connection: AsyncConnection,
    account_id: AccountId,
    *,
    name: str | None = None,
    tier: Tier | None = None,
    limits: Limits | None = None,
) -> bool:
    """What is None stays. False when there is no such account."""
    fields: dict[str, Any] = {}
    if name is not None:
        fields["name"] = name
    if tier is not None:
        fields["tier"] = tier.value
    if limits is not None:
        fields["limits"] = limits.to_fields() or None
    if not fields:
        return await find(connection, account_id) is not None
    changed = update(account).where(account.c.id == account_id).values(fields)
    return (await connection.execute(changed)).rowcount == 1


async def set_allowance(
    connection: AsyncConnection, account_id: AccountId, *, tier: Tier, limits: Limits
) -> bool:
    """False when there is no such account."""
    return await change(connection, account_id, tier=tier, limits=limits)


def _record(row: Row[Any]) -> AccountRecord:
    return AccountRecord(row.id, row.name, Tier(row.tier), Limits.from_fields(row.limits), row.created_at)
