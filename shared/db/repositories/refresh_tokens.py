"""Refresh tokens, by digest: each is used once, and descends from one login."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_new
from shared.db.tables import refresh_token
from shared.ids import AccountId, UserId


@dataclass(frozen=True, slots=True)
class RefreshTokenRecord:
    """`family`: the login. `used_by`: fingerprint of the client that used it."""

    digest: str
    family: str
    user_id: UserId
    account_id: AccountId
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    used_by: str | None = None
    revoked_at: datetime | None = None


async def create(connection: AsyncConnection, record: RefreshTokenRecord) -> None:
    """Again is harmless: a successor is the same however often it is derived."""
    row = {name: getattr(record, name) for name in RefreshTokenRecord.__dataclass_fields__}
    await insert_new(connection, refresh_token, [row])


async def use(
    connection: AsyncConnection, digest: str, *, now: datetime, by: str
) -> RefreshTokenRecord | None:
    """Uses it up, for one of all who try; None when it cannot be used, or not any more."""
    used = (
        update(refresh_token)
        .where(
            refresh_token.c.digest == digest,
            refresh_token.c.used_at.is_(None),
            refresh_token.c.revoked_at.is_(None),
            refresh_token.c.expires_at > now,
        )
        .values(used_at=now, used_by=by)
        .returning(refresh_token)
    )
    found = (await connection.execute(used)).one_or_none()
    return None if found is None else _record(found)


async def find(connection: AsyncConnection, digest: str) -> RefreshTokenRecord | None:
    found = (
        await connection.execute(select(refresh_token).where(refresh_token.c.digest == digest))
    ).one_or_none()
    return None if found is None else _record(found)


async def revoke_family(connection: AsyncConnection, family: str, *, at: datetime) -> int:
    """How many of it were still good."""
    revoked = (
        update(refresh_token)
        .where(refresh_token.c.family == family, refresh_token.c.revoked_at.is_(None))
        .values(revoked_at=at)
    )
    return (await connection.execute(revoked)).rowcount


async def revoke_of_user(connection: AsyncConnection, user_id: UserId, *, at: datetime) -> None:
    its = (refresh_token.c.user_id == user_id) & refresh_token.c.revoked_at.is_(None)
    await connection.execute(update(refresh_token).where(its).values(revoked_at=at))


async def remove_expired(connection: AsyncConnection, before: datetime) -> int:
    gone = await connection.execute(delete(refresh_token).where(refresh_token.c.expires_at < before))
    return gone.rowcount


def _record(row: Row[tuple[object, ...]]) -> RefreshTokenRecord:
    return RefreshTokenRecord(**row._mapping)
