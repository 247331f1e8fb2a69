"""Users: the people who log in. An email is stored in lower case."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import user
from shared.errors import Conflict
from shared.ids import UserId


class EmailTaken(Conflict):
    code = "email_taken"

    def __init__(self) -> None:
        super().__init__("There is a user with this email already.", param="email")


@dataclass(frozen=True, slots=True)
class UserRecord:
    """`token_version`: what access tokens must carry; raised, it ends every session there is."""

    id: UserId
    email: str
    name: str
    created_at: datetime
    password_hash: str | None = None
    is_operator: bool = False
    token_version: int = 0
    disabled_at: datetime | None = None


async def create(connection: AsyncConnection, record: UserRecord) -> None:
    """Raises EmailTaken; the transaction is then over."""
    try:
        await connection.execute(insert(user).values(asdict(record)))
    except IntegrityError as exc:
        raise EmailTaken from exc


async def find(connection: AsyncConnection, user_id: UserId) -> UserRecord | None:
    found = (await connection.execute(select(user).where(user.c.id == user_id))).one_or_none()
    return None if found is None else _record(found)


async def lock(connection: AsyncConnection, user_id: UserId) -> None:
    """Until the transaction ends, others wait who take it too. (On SQLite whoever writes waits anyway.)"""
    await connection.execute(select(user.c.id).where(user.c.id == user_id).with_for_update())


async def find_by_email(connection: AsyncConnection, email: str) -> UserRecord | None:
    found = (await connection.execute(select(user).where(user.c.email == email.lower()))).one_or_none()
    return None if found is None else _record(found)


async def list_for_operator(
    connection: AsyncConnection, *, after: str = "", limit: int = 100
) -> list[UserRecord]:
    """Everybody, by id; never behind a route of an account."""
    rows = await connection.execute(select(user).where(user.c.id > after).order_by(user.c.id).limit(limit))
    return [_record(row) for row in rows]


async def there_is_an_operator(connection: AsyncConnection) -> bool:
    found = await connection.scalar(
        select(user.c.id).where(user.c.is_operator, user.c.disabled_at.is_(None)).limit(1)
    )
    return found is not None


async def change(connection: AsyncConnection, user_id: UserId, **fields: Any) -> bool:
    """Columns of the table. False when there is no such user."""
    changed = await connection.execute(update(user).where(user.c.id == user_id).values(fields))
    return changed.rowcount == 1


async def end_sessions(connection: AsyncConnection, user_id: UserId) -> bool:
    """Every access token there is of the user becomes an old one. False when there is no such user."""
    raised = update(user).where(user.c.id == user_id).values(token_version=user.c.token_version + 1)
    return (await connection.execute(raised)).rowcount == 1


def _record(row: Row[tuple[object, ...]]) -> UserRecord:
    return UserRecord(**row._mapping)
