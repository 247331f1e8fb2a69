"""The accounts' own provider credentials: fetched sealed, kept sealed, opened for one call.

    job's target names one ──> this process, for a minute ──> the database ──> open, call, forget
                                        └── the database is away: what is known stays good for a while

A credential is found by its id and its job's account together, so a job of somebody else never
gets it. It is sent to the origins that were stored with it, and to no other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Self

from loguru import logger
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import Clock, SystemClock
from shared.crypto import Binding, CannotOpen, Opener
from shared.db.engine import DATABASE_ERRORS, create_engine, url_of
from shared.db.repositories import provider_credentials
from shared.db.repositories.provider_credentials import FIELD, CredentialRecord
from shared.domain.job import Job, Target
from shared.errors import ProviderCredentialRefused, ProviderError, ProviderUnavailable
from shared.ids import AccountId, CredentialId
from shared.providers.credentials import Credential, Credentials
from shared.providers.profile import ProviderProfile
from shared.settings import Settings

TRUST_SECONDS: Final = 60.0
DATABASE_SECONDS: Final = 2.0
REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    record: CredentialRecord
    fresh_until: float
    stale_until: float


class OwnCredentials:
    """One a worker. `opener`: None where it has no master key."""

    def __init__(
        self,
        database: AsyncEngine,
        opener: Opener | None,
        *,
        stale_seconds: float,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._opener = opener
        self._stale_seconds = stale_seconds
        self._clock = clock or SystemClock()
        self._known: OrderedDict[tuple[AccountId, CredentialId], _Known] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Raises MasterKeyMalformed."""
        texts = [
            text.get_secret_value()
            for text in (settings.master_key, settings.master_key_before)
            if text is not None
        ]
        opener = Opener.from_text(*texts) if texts else None
        return cls(create_engine(url_of(settings)), opener, stale_seconds=settings.auth.stale_seconds)

    async def aclose(self) -> None:
        await self._database.dispose()

    async def of(self, job: Job, target: Target, profile: ProviderProfile) -> Credentials:
        """For one call. Raises ProviderCredentialRefused, or ProviderUnavailable while nobody can tell."""
        if self._opener is None:
            raise ProviderCredentialRefused(
                f"This account's key of {profile.name} cannot be opened: its worker has no master key.",
                provider=profile.id,
            )
        record = await self._record(job.account, CredentialId(target.credential), profile)
        try:
            secret = self._opener.open(record.sealed, Binding(record.account_id, record.id, FIELD))
        except CannotOpen as exc:
            logger.error("provider key not opened", credential=record.id, reason=str(exc))
            raise ProviderCredentialRefused(
                f"This account's key of {profile.name} cannot be opened. Store it anew.", provider=profile.id
            ) from exc
        opened = Credential(SecretStr(secret.decode()), frozenset(record.origins))
        return Credentials({(record.provider, record.id): opened})

    def forget(self) -> None:
        """Some credential or key changed: ask anew."""
        now = self._clock.monotonic()
        for name, known in self._known.items():
            self._known[name] = _Known(known.record, now, known.stale_until)

    async def _record(
        self, account: AccountId, credential: CredentialId, profile: ProviderProfile
    ) -> CredentialRecord:
        name, now = (account, credential), self._clock.monotonic()
        known = self._known.get(name)
        if known is not None and now < known.fresh_until:
            return known.record
        try:
            async with asyncio.timeout(DATABASE_SECONDS), self._database.connect() as connection:
                record = await provider_credentials.find(connection, credential, account=account)
        except DATABASE_ERRORS as exc:
            if known is not None and now < known.stale_until:
                return known.record
            raise _away(profile) from exc
        if record is None or record.provider != profile.id:
            self._known.pop(name, None)
            raise ProviderCredentialRefused(
                f"This account's key of {profile.name} was removed.", provider=profile.id
            )
        self._known[name] = _Known(record, now + TRUST_SECONDS, now + TRUST_SECONDS + self._stale_seconds)
        self._known.move_to_end(name)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return record


class CredentialsAway(ProviderUnavailable):
    """It says nothing about the provider, so its breaker does not hear of it."""

    counts_for_breaker = False


def _away(profile: ProviderProfile) -> ProviderError:
    return CredentialsAway(
        f"This account's key of {profile.name} cannot be read at the moment.",
        provider=profile.id,
        status=503,
        retry_after_seconds=1,
    )
