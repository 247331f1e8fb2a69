"""What accounts prefer where a request leaves the model to them: at most one row each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_or_replace
from shared.db.tables import account_preferences
from shared.domain.principal import Preference, known_failures
from shared.ids import AccountId


@dataclass(frozen=True, slots=True)
class StoredPreference:
    preference: Preference
    updated_at: datetime


async def find(connection: AsyncConnection, account: AccountId) -> StoredPreference | None:
    of_account = account_preferences.c.account_id == account
    row = (await connection.execute(select(account_preferences).where(of_account))).one_or_none()
    if row is None:
        return None
    preference = Preference(row.model, tuple(row.fallback_models), known_failures(row.fallback_on))
    return StoredPreference(preference, row.updated_at)


async def save(
    connection: AsyncConnection, account: AccountId, preference: Preference, *, at: datetime
) -> None:
    """In the place of what was there. The account must exist."""
    row = {
        "account_id": account,
        "model": preference.model,
        "fallback_models": list(preference.fallback_models),
        "fallback_on": sorted(preference.fallback_on),
        "updated_at": at,
    }
    await insert_or_replace(connection, account_preferences, row)


async def remove(connection: AsyncConnection, account: AccountId) -> None:
    """One that is not there is removed already."""
    of_account = account_preferences.c.account_id == account
    await connection.execute(delete(account_preferences).where(of_account))
