"""Issuing keys, and putting a new one in the place of an old one. A key is shown once."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.auth.api_keys import mint
from shared.db.repositories import api_keys
from shared.db.repositories.api_keys import ApiKeyRecord
from shared.domain.allowance import NO_LIMITS, Limits
from shared.domain.grants import Grant
from shared.errors import Conflict
from shared.ids import AccountId, UserId


class KeyNotRotated(Conflict):
    code = "key_not_usable"

    def __init__(self) -> None:
        super().__init__("This key is revoked or expired, or was rotated before. Create a new one.")


class KeyIssuer:
    """`pepper`: the secret under which keys are digested."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper

    async def issue(
        self,
        connection: AsyncConnection,
        account: AccountId,
        grant: Grant,
        *,
        name: str,
        now: datetime,
        user_id: UserId | None,
        created_by: str,
        expires_at: datetime | None = None,
        limits: Limits = NO_LIMITS,
    ) -> tuple[str, ApiKeyRecord]:
        """The key and what is stored of it. The account must exist."""
        token, record = mint(
            self._pepper, account=account, name=name, now=now, expires_at=expires_at, created_by=created_by
        )
        record = replace(
            record,
            user_id=user_id,
            role=grant.role,
            scopes=None if grant.scopes is None else tuple(sorted(grant.scopes)),
            models=grant.models,
            providers=grant.providers,
            lane=grant.lane,
            limits=limits,
        )
        await api_keys.create(connection, record)
        return token, record

    async def rotate(
        self,
        connection: AsyncConnection,
        old: ApiKeyRecord,
        *,
        now: datetime,
        grace: timedelta,
        created_by: str,
        expires_at: datetime | None = None,
    ) -> tuple[str, ApiKeyRecord]:
        """A key that may do what the old one may, which is good for `grace` from now on.

        `expires_at`: by default it lives as long from now as the old one did from its creation.
        To be announced once it is committed. Raises KeyNotRotated.
        """
        if not old.is_usable(now) or await api_keys.is_rotated(connection, old.id):
            raise KeyNotRotated
        if expires_at is None and old.expires_at is not None:
            expires_at = now + (old.expires_at - old.created_at)
        token, new = mint(
            self._pepper,
            account=old.account_id,
            name=old.name,
            now=now,
            expires_at=expires_at,
            created_by=created_by,
        )
        kept = replace(
            old,
            id=new.id,
            digest=new.digest,
            prefix=new.prefix,
            last4=new.last4,
            created_at=now,
            created_by=created_by,
            expires_at=expires_at,
            rotated_from=old.id,
        )
        await api_keys.create(connection, kept)
        await api_keys.expire(connection, old.id, at=now + grace)
        return token, kept
