"""The keys we issued. The key itself is nowhere: a digest finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Row, Select, String, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import api_key
from shared.domain.allowance import NO_LIMITS, Limits
from shared.domain.job import Lane
from shared.domain.roles import Role
from shared.ids import AccountId, ApiKeyId, UserId


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """`prefix` and `last4` are for people to recognise a key by. `scopes`: None allows everything.

    `lane`: the highest its jobs may be in. `user_id`: the member it belongs to, None of the account's own.
    """

    id: ApiKeyId
    account_id: AccountId
    name: str
    digest: str
    prefix: str
    last4: str
    created_at: datetime
    created_by: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    scopes: tuple[str, ...] | None = None
    lane: Lane = Lane.INTERACTIVE
    user_id: UserId | None = None
    role: Role = Role.SERVICE
    models: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    limits: Limits = NO_LIMITS
    rotated_from: ApiKeyId | None = None

    def is_usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


async def create(connection: AsyncConnection, record: ApiKeyRecord) -> None:
    """The account must exist."""
    await connection.execute(insert(api_key).values(_values(record)))


async def find_by_digest(connection: AsyncConnection, digest: str) -> ApiKeyRecord | None:
    """Revoked and expired keys too. The one question without an account: its answer is the account."""
    found = (await connection.execute(select(api_key).where(api_key.c.digest == digest))).one_or_none()
    return None if found is None else _record(found)


async def find(connection: AsyncConnection, key_id: ApiKeyId, *, account: AccountId) -> ApiKeyRecord | None:
    """Revoked and expired keys too."""
    its = (api_key.c.id == key_id) & (api_key.c.account_id == account)
    found = (await connection.execute(select(api_key).where(its))).one_or_none()
    return None if found is None else _record(found)


async def find_for_operator(connection: AsyncConnection, key_id: ApiKeyId) -> ApiKeyRecord | None:
    """`find()` over all accounts, for the command line; never behind a route."""
    found = (await connection.execute(select(api_key).where(api_key.c.id == key_id))).one_or_none()
    return None if found is None else _record(found)


async def list_of(connection: AsyncConnection, account: AccountId) -> list[ApiKeyRecord]:
    """An account's keys, newest first, revoked ones included."""
    rows = await connection.execute(
        select(api_key)
        .where(api_key.c.account_id == account)
        .order_by(api_key.c.created_at.desc(), api_key.c.id)
    )
    return [_record(row) for row in rows]


async def page_of(
    connection: AsyncConnection,
    account: AccountId,
    *,
    user_id: UserId | None,
    revoked: bool,
    after: str = "",
    limit: int = 100,
) -> list[ApiKeyRecord]:
    """By id. `user_id`: of this member alone. `revoked`: those as well."""
    page = select(api_key).where(api_key.c.account_id == account, api_key.c.id > after)
    if user_id is not None:
        page = page.where(api_key.c.user_id == user_id)
    if not revoked:
        page = page.where(api_key.c.revoked_at.is_(None))
    rows = await connection.execute(page.order_by(api_key.c.id).limit(limit))
    return [_record(row) for row in rows]


async def count_usable(
    connection: AsyncConnection, account: AccountId, user_id: UserId | None, now: datetime
) -> int:
    """Of the member, or of the account itself."""
    its = api_key.c.user_id.is_(None) if user_id is None else api_key.c.user_id == user_id
    counted = select(func.count()).where(
        api_key.c.account_id == account,
        its,
        api_key.c.revoked_at.is_(None),
        api_key.c.expires_at.is_(None) | (api_key.c.expires_at > now),
    )
    return await connection.scalar(counted) or 0


async def is_rotated(connection: AsyncConnection, key_id: ApiKeyId) -> bool:
    """Whether another key took its place."""
    successor = select(api_key.c.id).where(api_key.c.rotated_from == key_id).limit(1)
    return await connection.scalar(successor) is not None


async def first_of_each(connection: AsyncConnection, keys: Sequence[str]) -> dict[str, str]:
    """Of keys that took another's place, and that one perhaps another's: the first of them all."""
    if not keys:
        return {}
    asked = select(api_key.c.id.label("asked"), api_key.c.id.label("at"), api_key.c.rotated_from)
    back = asked.where(api_key.c.id.in_(keys)).cte("back", recursive=True)
    before = select(back.c.asked, api_key.c.id, api_key.c.rotated_from).join(
        back, api_key.c.id == back.c.rotated_from
    )
    back = back.union_all(before)
    rows = await connection.execute(select(back.c.asked, back.c.at).where(back.c.rotated_from.is_(None)))
    return {row.asked: row.at for row in rows}


def rotated_out_of(first: str, account: AccountId) -> Select[tuple[str]]:
    """The ids of all keys that took its place, one after the other, and its own."""
    on = select(literal(first, String).label("id")).cte("on_from", recursive=True)
    after = select(api_key.c.id).join(
        on, (api_key.c.rotated_from == on.c.id) & (api_key.c.account_id == account)
    )
    return select(on.union_all(after).c.id)


async def expire(connection: AsyncConnection, key_id: ApiKeyId, *, at: datetime) -> None:
    """No later than it would have anyway."""
    later = api_key.c.expires_at.is_(None) | (api_key.c.expires_at > at)
    await connection.execute(update(api_key).where(api_key.c.id == key_id, later).values(expires_at=at))


async def list_for_operator(connection: AsyncConnection) -> list[ApiKeyRecord]:
    """Everybody's keys, for the command line of whoever runs the broker; never behind a route."""
    rows = await connection.execute(select(api_key).order_by(api_key.c.created_at.desc(), api_key.c.id))
    return [_record(row) for row in rows]


async def revoke(
    connection: AsyncConnection, key_id: ApiKeyId, *, account: AccountId, at: datetime
) -> str | None:
    """The revoked key's digest; None when the account has no such key. Again changes nothing."""
    return await _revoke(connection, key_id, account=account, at=at)


async def revoke_for_operator(connection: AsyncConnection, key_id: ApiKeyId, *, at: datetime) -> str | None:
    """`revoke()` over all accounts, for the command line; never behind a route."""
    return await _revoke(connection, key_id, account=None, at=at)


async def _revoke(
    connection: AsyncConnection, key_id: ApiKeyId, *, account: AccountId | None, at: datetime
) -> str | None:
    revoked = (
        update(api_key)
        .where(api_key.c.id == key_id)
        .values(revoked_at=func.coalesce(api_key.c.revoked_at, literal(at, api_key.c.revoked_at.type)))
        .returning(api_key.c.digest)
    )
    if account is not None:
        revoked = revoked.where(api_key.c.account_id == account)
    digest: str | None = (await connection.execute(revoked)).scalar_one_or_none()
    return digest


def _values(record: ApiKeyRecord) -> dict[str, object]:
    return {
        **asdict(record),
        "scopes": _listed(record.scopes),
        "models": _listed(record.models),
        "providers": _listed(record.providers),
        "limits": record.limits.to_fields() or None,
        "lane": record.lane.value,
        "role": record.role.value,
    }


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _record(row: Row[tuple[object, ...]]) -> ApiKeyRecord:
    columns = dict(row._mapping)
    for several in ("scopes", "models", "providers"):
        stored = columns[several]
        columns[several] = None if stored is None else tuple(stored)
    columns["limits"] = Limits.from_fields(columns["limits"])
    columns["lane"], columns["role"] = Lane(columns["lane"]), Role(columns["role"])
    return ApiKeyRecord(**columns)
