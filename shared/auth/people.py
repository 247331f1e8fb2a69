"""Users as operators make and change them: from the admin routes, the command line and at the start."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories import accounts, memberships, refresh_tokens, users
from shared.db.repositories.users import UserRecord
from shared.domain.allowance import NO_LIMITS, Tier
from shared.domain.roles import Role
from shared.errors import NotFound
from shared.ids import AccountId, UserId, new_account_id, new_user_id


async def create_user(
    connection: AsyncConnection,
    email: str,
    name: str,
    password_hash: str,
    *,
    now: datetime,
    account: AccountId | None = None,
    role: Role = Role.ADMIN,
    operator: bool = False,
) -> tuple[UserRecord, AccountId]:
    """`email`: normal_email of it. `account`: one that is there; None for one of its own.

    Raises EmailTaken or NotFound; the transaction is then over.
    """
    record = UserRecord(new_user_id(), email, name, now, password_hash, is_operator=operator)
    await users.create(connection, record)
    if account is None:
        account = new_account_id()
        await accounts.ensure(connection, account, name=name, at=now)
        await accounts.set_allowance(connection, account, tier=Tier.STANDARD, limits=NO_LIMITS)
    elif not await accounts.hold(connection, account):
        raise NotFound("There is no such account.", param="account")
    await memberships.add(connection, account, record.id, role, at=now)
    return record, account


async def change_user(
    connection: AsyncConnection,
    user_id: UserId,
    *,
    now: datetime,
    name: str | None = None,
    password_hash: str | None = None,
    disabled: bool | None = None,
    operator: bool | None = None,
) -> UserRecord:
    """What is None stays. To be announced by `session_end.end_all`. Raises NotFound.

    A new password, and being disabled, end all sessions.
    """
    # A write first: on SQLite, what was read before could not be written any more.
    await users.change(connection, user_id, id=user_id)
    found = await users.find(connection, user_id)
    if found is None:
        raise NotFound("There is no such user.")
    fields: dict[str, Any] = {}
    if name is not None:
        fields["name"] = name
    if password_hash is not None:
        fields["password_hash"] = password_hash
    if operator is not None:
        fields["is_operator"] = operator
    if disabled is not None and disabled != (found.disabled_at is not None):
        fields["disabled_at"] = now if disabled else None
    if password_hash is not None or disabled:
        fields["token_version"] = found.token_version + 1
        await refresh_tokens.revoke_of_user(connection, user_id, at=now)
    if fields:
        await users.change(connection, user_id, **fields)
    return replace(found, **fields)
