"""Members of accounts: which user, in which role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_new
from shared.db.tables import membership, user
from shared.domain.allowance import NO_LIMITS, Limits
from shared.domain.roles import Role
from shared.errors import Conflict
from shared.ids import AccountId, UserId


class LastAdmin(Conflict):
    code = "last_admin"

    def __init__(self) -> None:
        super().__init__("The account would be left without an admin. Make somebody else one first.")


@dataclass(frozen=True, slots=True)
class Member:
    user_id: UserId
    email: str
    name: str
    role: Role
    limits: Limits
    created_at: datetime
    disabled_at: datetime | None


async def add(
    connection: AsyncConnection,
    account: AccountId,
    user_id: UserId,
    role: Role,
    *,
    at: datetime,
    limits: Limits = NO_LIMITS,
) -> None:
    """One that is a member already stays what it is."""
    row = {
        "account_id": account,
        "user_id": user_id,
        "role": role.value,
        "limits": limits.to_fields() or None,
        "created_at": at,
    }
    await insert_new(connection, membership, [row])


async def accounts_of(connection: AsyncConnection, user_id: UserId) -> list[AccountId]:
    """The one that it was a member of first, first."""
    rows = await connection.execute(
        select(membership.c.account_id)
        .where(membership.c.user_id == user_id)
        .order_by(membership.c.created_at, membership.c.account_id)
    )
    return [AccountId(row.account_id) for row in rows]


async def accounts_of_all(
    connection: AsyncConnection, user_ids: Sequence[UserId]
) -> dict[UserId, list[AccountId]]:
    """The same for several."""
    rows = await connection.execute(
        select(membership.c.user_id, membership.c.account_id)
        .where(membership.c.user_id.in_(user_ids))
        .order_by(membership.c.created_at, membership.c.account_id)
    )
    found: dict[UserId, list[AccountId]] = {}
    for row in rows:
        found.setdefault(UserId(row.user_id), []).append(AccountId(row.account_id))
    return found


async def find(connection: AsyncConnection, account: AccountId, user_id: UserId) -> Member | None:
    found = (await connection.execute(_members(account).where(membership.c.user_id == user_id))).one_or_none()
    return None if found is None else _member(found)


async def list_of(connection: AsyncConnection, account: AccountId) -> list[Member]:
    rows = await connection.execute(_members(account).order_by(membership.c.created_at, membership.c.user_id))
    return [_member(row) for row in rows]


async def count(connection: AsyncConnection, account: AccountId) -> int:
    counted = select(func.count()).where(membership.c.account_id == account)
    return await connection.scalar(counted) or 0


async def change(
    connection: AsyncConnection,
    account: AccountId,
    user_id: UserId,
    *,
    role: Role | None = None,
    limits: Limits | None = None,
) -> bool:
    """What is None stays. False when the account has no such member."""
    fields: dict[str, Any] = {}
    if role is not None:
        fields["role"] = role.value
    if limits is not None:
        fields["limits"] = limits.to_fields() or None
    its = (membership.c.account_id == account) & (membership.c.user_id == user_id)
    if not fields:
        return await find(connection, account, user_id) is not None
    return (await connection.execute(update(membership).where(its).values(fields))).rowcount == 1


async def require_an_admin(connection: AsyncConnection, account: AccountId) -> None:
    """Asked after a change, in its transaction, which holds the account. Raises LastAdmin."""
    found = await connection.scalar(
        select(membership.c.user_id)
        .join(user, user.c.id == membership.c.user_id)
        .where(
            membership.c.account_id == account,
            membership.c.role == Role.ADMIN.value,
            user.c.disabled_at.is_(None),
        )
        .limit(1)
    )
    if found is None:
        raise LastAdmin


async def remove(connection: AsyncConnection, account: AccountId, user_id: UserId) -> bool:
    its = (membership.c.account_id == account) & (membership.c.user_id == user_id)
    return (await connection.execute(delete(membership).where(its))).rowcount == 1


def _members(account: AccountId) -> Any:
    return (
        select(membership, user.c.email, user.c.name, user.c.disabled_at)
        .join(user, user.c.id == membership.c.user_id)
        .where(membership.c.account_id == account)
    )


def _member(row: Row[Any]) -> Member:
    return Member(
        user_id=UserId(row.user_id),
        email=row.email,
        name=row.name,
        role=Role(row.role),
        limits=Limits.from_fields(row.limits),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )
