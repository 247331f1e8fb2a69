"""Files of accounts: what there is to know beside their content. One that expired is not there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import account as account_table
from shared.db.tables import file as file_table
from shared.ids import AccountId, FileId


@dataclass(frozen=True, slots=True)
class File:
    """`created_by`: a user, or an API key that is of none. `storage_key`: where its content is."""

    id: FileId
    account_id: AccountId
    created_by: str
    filename: str
    purpose: str
    size_bytes: int
    storage_key: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Held:
    """What an account holds."""

    files: int
    size_bytes: int


async def create(connection: AsyncConnection, new: File) -> None:
    """Once its content is durable."""
    await connection.execute(insert(file_table).values(asdict(new)))


async def held(connection: AsyncConnection, account: AccountId, *, alone: bool = False) -> Held:
    """Expired ones too, as long as they take their place.

    `alone`: nobody else adds to it until this transaction ends.
    """
    if alone:
        # SQLite has one writer anyway.
        row = select(account_table.c.id).where(account_table.c.id == account).with_for_update()
        await connection.execute(row)
    total = func.coalesce(func.sum(file_table.c.size_bytes), 0)
    found = await connection.execute(
        select(func.count(), total).select_from(file_table).where(file_table.c.account_id == account)
    )
    files, size_bytes = found.one()
    return Held(int(files), int(size_bytes))


async def find(
    connection: AsyncConnection, account: AccountId, file_id: str, *, now: datetime
) -> File | None:
    which = and_(file_table.c.id == file_id, _of(account, now))
    row = (await connection.execute(select(file_table).where(which))).one_or_none()
    return None if row is None else File(**row._mapping)


async def page(
    connection: AsyncConnection,
    account: AccountId,
    *,
    now: datetime,
    limit: int,
    purpose: str | None = None,
    oldest_first: bool = False,
    after: File | None = None,
) -> list[File]:
    """From behind `after`."""
    at, file_id = file_table.c.created_at, file_table.c.id
    which = [_of(account, now)]
    if purpose is not None:
        which.append(file_table.c.purpose == purpose)
    if after is not None:
        same = at == after.created_at
        if oldest_first:
            which.append(or_(at > after.created_at, and_(same, file_id > after.id)))
        else:
            which.append(or_(at < after.created_at, and_(same, file_id < after.id)))
    order = (at.asc(), file_id.asc()) if oldest_first else (at.desc(), file_id.desc())
    rows = await connection.execute(select(file_table).where(*which).order_by(*order).limit(limit))
    return [File(**row._mapping) for row in rows]


async def remove(
    connection: AsyncConnection, account: AccountId, file_id: str, *, now: datetime
) -> str | None:
    """The storage key of what is to be deleted now; None where there was no such file."""
    which = and_(file_table.c.id == file_id, _of(account, now))
    key: str | None = await connection.scalar(
        delete(file_table).where(which).returning(file_table.c.storage_key)
    )
    return key


async def remove_expired(connection: AsyncConnection, now: datetime, *, limit: int) -> list[str]:
    """The storage keys of what is to be deleted now, of up to `limit` files."""
    old = select(file_table.c.id).where(file_table.c.expires_at <= now).limit(limit)
    removed = await connection.scalars(
        delete(file_table).where(file_table.c.id.in_(old)).returning(file_table.c.storage_key)
    )
    return list(removed)


async def without_row(connection: AsyncConnection, keys: Sequence[str]) -> Collection[str]:
    """Those of `keys` that are the content of no file."""
    known = await connection.scalars(
        select(file_table.c.storage_key).where(file_table.c.storage_key.in_(keys))
    )
    return set(keys) - set(known)


def _of(account: AccountId, now: datetime) -> ColumnElement[bool]:
    alive = or_(file_table.c.expires_at.is_(None), file_table.c.expires_at > now)
    return and_(file_table.c.account_id == account, alive)
