"""The accounts' own keys at providers, sealed: nothing here opens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import provider_credential
from shared.ids import AccountId, CredentialId

FIELD = "secret"
"""The field that `sealed` is bound to."""


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """`masked` is for people to recognise it by. `origins`: the only ones it is sent to."""

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


async def create(connection: AsyncConnection, record: CredentialRecord) -> None:
    """The account must exist."""
    values = {name: getattr(record, name) for name in CredentialRecord.__dataclass_fields__}
    await connection.execute(insert(provider_credential).values({**values, "origins": list(record.origins)}))


async def find(
    connection: AsyncConnection, credential_id: CredentialId, *, account: AccountId
) -> CredentialRecord | None:
    """None where the account has no such credential, or not any more."""
    found = (
        await connection.execute(
            select(provider_credential).where(
                provider_credential.c.id == credential_id,
                provider_credential.c.account_id == account,
                provider_credential.c.revoked_at.is_(None),
            )
        )
    ).one_or_none()
    return None if found is None else _record(found)


async def list_of(connection: AsyncConnection, account: AccountId) -> list[CredentialRecord]:
    """Newest first, revoked ones left out."""
    rows = await connection.execute(
        select(provider_credential)
        .where(provider_credential.c.account_id == account, provider_credential.c.revoked_at.is_(None))
        .order_by(provider_credential.c.created_at.desc(), provider_credential.c.id)
    )
    return [_record(row) for row in rows]


async def revoke(
    connection: AsyncConnection, credential_id: CredentialId, *, account: AccountId, at: datetime
) -> bool:
    """Its sealed secret goes too. False where the account has no such credential."""
    revoked = (
        update(provider_credential)
        .where(
            provider_credential.c.id == credential_id,
            provider_credential.c.account_id == account,
            provider_credential.c.revoked_at.is_(None),
        )
        .values(revoked_at=at, sealed=b"")
    )
    return (await connection.execute(revoked)).rowcount == 1


async def sealed_for_others(
    connection: AsyncConnection, master_key_id: str, *, limit: int
) -> Sequence[CredentialRecord]:
    """Those of another master key, for whoever seals them anew; never behind a route."""
    rows = await connection.execute(
        select(provider_credential)
        .where(
            provider_credential.c.master_key_id != master_key_id,
            provider_credential.c.revoked_at.is_(None),
        )
        .order_by(provider_credential.c.id)
        .limit(limit)
    )
    return [_record(row) for row in rows]


async def replace_seal(
    connection: AsyncConnection, record: CredentialRecord, sealed: bytes, master_key_id: str
) -> None:
    """Unless it was replaced, or revoked, since the record was read."""
    await connection.execute(
        update(provider_credential)
        .where(provider_credential.c.id == record.id, provider_credential.c.sealed == record.sealed)
        .values(sealed=sealed, master_key_id=master_key_id)
    )


def _record(row: Row[tuple[object, ...]]) -> CredentialRecord:
    columns = dict(row._mapping)
    origins = columns.pop("origins")
    return CredentialRecord(**columns, origins=tuple(origins))
