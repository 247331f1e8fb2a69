"""The accounts' own keys at providers, sealed. A row is bound to its place: see `CredentialRecord.place`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.crypto import Place
from shared.db.tables import provider_credential
from shared.ids import AccountId, CredentialId


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """`masked`: for people to recognise it by. `origins`: the only ones it is sent to, sorted."""

    id: CredentialId
    account_id: AccountId
    provider: str
    name: str
    masked: str
    origins: tuple[str, ...]
    sealed: bytes
    master_key_id: str
    created_at: datetime
    created_by: str | None = None
    revoked_at: datetime | None = None

    @property
    def place(self) -> Place:
        return place_of(self.account_id, self.id, self.provider, self.origins)


def place_of(account: AccountId, credential: CredentialId, provider: str, origins: tuple[str, ...]) -> Place:
    """Provider and origins as part of the field: whoever rewrites these columns sends the key nowhere."""
    return Place(account, credential, " ".join(("api_key", provider, *sorted(origins))))


async def create(connection: AsyncConnection, record: CredentialRecord) -> None:
    """The account must exist."""
    values = {name: getattr(record, name) for name in CredentialRecord.__dataclass_fields__}
    await connection.execute(insert(provider_credential).values({**values, "origins": list(record.origins)}))


async def find(
    connection: AsyncConnection, credential: CredentialId, *, account: AccountId
) -> CredentialRecord | None:
    """Revoked ones too."""
    found = await connection.execute(
        select(provider_credential).where(
            provider_credential.c.id == credential, provider_credential.c.account_id == account
        )
    )
    row = found.one_or_none()
    return None if row is None else _record(row)


async def list_of(connection: AsyncConnection, account: AccountId) -> list[CredentialRecord]:
    """Those that are not revoked, newest first."""
    rows = await connection.execute(
        select(provider_credential)
        .where(provider_credential.c.account_id == account, provider_credential.c.revoked_at.is_(None))
        .order_by(provider_credential.c.created_at.desc(), provider_credential.c.id.desc())
    )
    return [_record(row) for row in rows]


async def count_of(connection: AsyncConnection, account: AccountId) -> int:
    """Of those that are not revoked."""
    counted = await connection.execute(
        select(func.count())
        .select_from(provider_credential)
        .where(provider_credential.c.account_id == account, provider_credential.c.revoked_at.is_(None))
    )
    return counted.scalar_one()


async def revoke(
    connection: AsyncConnection, credential: CredentialId, *, account: AccountId, at: datetime
) -> bool:
    """Whether the account had it until now."""
    revoked = await connection.execute(
        update(provider_credential)
        .where(
            provider_credential.c.id == credential,
            provider_credential.c.account_id == account,
            provider_credential.c.revoked_at.is_(None),
        )
        .values(revoked_at=at)
        .returning(provider_credential.c.id)
    )
    return revoked.scalar_one_or_none() is not None


async def sealed_otherwise(
    connection: AsyncConnection, master_key_id: str, *, after: CredentialId, limit: int
) -> list[CredentialRecord]:
    """Of all accounts, those sealed for another master key, by id; revoked ones too. For whoever runs the
    broker; never behind a route.
    """
    rows = await connection.execute(
        select(provider_credential)
        .where(provider_credential.c.master_key_id != master_key_id, provider_credential.c.id > after)
        .order_by(provider_credential.c.id)
        .limit(limit)
    )
    return [_record(row) for row in rows]


async def store_rewrapped(
    connection: AsyncConnection, record: CredentialRecord, sealed: bytes, master_key_id: str
) -> bool:
    """False where somebody else has rewrapped it since `record` was read."""
    stored = await connection.execute(
        update(provider_credential)
        .where(
            provider_credential.c.id == record.id,
            provider_credential.c.master_key_id == record.master_key_id,
        )
        .values(sealed=sealed, master_key_id=master_key_id)
        .returning(provider_credential.c.id)
    )
    return stored.scalar_one_or_none() is not None


def _record(row: Row[tuple[object, ...]]) -> CredentialRecord:
    columns = dict(row._mapping)
    columns["origins"] = tuple(columns["origins"])
    return CredentialRecord(**columns)
