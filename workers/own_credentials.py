"""The accounts' own keys at providers: found sealed, opened for one call, and forgotten with it.

    sealed() ── known, under a minute old ─────────────────> the record, sealed
       │     ── else the database, one question at a time a credential ──> the record
       │     ── database away, known before ───────────────> the record as it was
       │     ── database away, not known ──────────────────> ProviderUnavailable: again later
       v
    open() ──> what authenticates the call; nothing keeps it

What is kept is sealed. A record as it was cannot outlive its revocation unnoticed: who revokes writes to
the database first and then tells every worker, so that an outage of the one leaves the other to be heard.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import Clock, SystemClock
from shared.crypto import CannotOpen, Opener, Place
from shared.db.engine import DATABASE_ERRORS
from shared.db.repositories import provider_credentials
from shared.db.repositories.provider_credentials import CredentialRecord
from shared.domain.job import Target
from shared.errors import ProviderCredentialRefused, ProviderUnavailable
from shared.ids import AccountId, CredentialId
from shared.providers.credentials import OwnKey, signs_with
from shared.providers.profile import ProviderProfile

FRESH_SECONDS: Final = 60.0
KNOWN: Final = 10_000
"""Records one worker keeps; under a kilobyte each."""
ANSWER_SECONDS: Final = 2.0
AWAY_SECONDS: Final = 1.0
"""How long a database that failed is not asked again."""


@dataclass(frozen=True, slots=True)
class _Known:
    """`record`: None where the account has no such credential."""

    account: AccountId
    record: CredentialRecord | None
    fresh_until: float


class OwnCredentials:
    """One a worker. Without an `opener` or a `database` it refuses every credential."""

    def __init__(
        self, database: AsyncEngine | None, opener: Opener | None, *, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._opener = opener
        self._clock = clock or SystemClock()
        self._known: OrderedDict[CredentialId, _Known] = OrderedDict()
        self._flights: dict[tuple[AccountId, CredentialId], asyncio.Task[CredentialRecord | None]] = {}
        self._changed: set[CredentialId] = set()
        """Heard of while they were asked about."""
        self._away_until = 0.0

    async def sealed(self, account: AccountId, target: Target, profile: ProviderProfile) -> CredentialRecord:
        """The credential of `target`, which must be of `account`, of this provider and for its addresses.

        Raises ProviderCredentialRefused, or ProviderUnavailable where nobody can be asked.
        """
        if self._database is None or self._opener is None:
            raise ProviderCredentialRefused(
                f"Keys of accounts at {profile.name} cannot be opened by this worker.", provider=profile.id
            )
        credential = CredentialId(target.credential)
        known = self._known.get(credential)
        if known is not None and known.account != account:
            known = None
        if known is not None and self._clock.monotonic() < known.fresh_until:
            record = known.record
        else:
            record = await self._look_up(self._database, account, credential, known, profile)
        if record is None or record.revoked_at is not None or record.provider != target.provider:
            raise ProviderCredentialRefused(
                f"The account's own key at {profile.name} was deleted.", provider=profile.id
            )
        if not profile.origins <= set(record.origins):
            raise ProviderCredentialRefused(
                f"The account's own key at {profile.name} belongs to another address than the one called.",
                provider=profile.id,
            )
        return record

    def open(self, record: CredentialRecord, profile: ProviderProfile) -> OwnKey:
        """Raises ProviderCredentialRefused."""
        return self._opened(record.sealed, record.place, profile, frozenset(record.origins))

    def open_candidate(self, sealed: bytes, place: Place, profile: ProviderProfile) -> OwnKey:
        """A key that is stored nowhere, and is to be tried. Raises ProviderCredentialRefused."""
        return self._opened(sealed, place, profile, profile.origins)

    def _opened(
        self, sealed: bytes, place: Place, profile: ProviderProfile, origins: frozenset[str]
    ) -> OwnKey:
        secret = None
        if self._opener is not None:
            try:
                secret = self._opener.open(sealed, place)
            except CannotOpen as exc:
                # Which master key is wanted, or that a row was changed: for operators.
                logger.error("own key not opened", record_id=place.record, reason=str(exc))
        if secret is None:
            raise ProviderCredentialRefused(
                f"The account's own key at {profile.name} cannot be opened.", provider=profile.id
            )
        return OwnKey(
            headers=profile.auth.headers(secret),
            origins=origins,
            sign=signs_with(secret, profile, self._clock),
        )

    def forget(self, credential: CredentialId) -> None:
        """A message on keyspace.REVOKED_CHANNEL arrived: ask about this one anew."""
        self._known.pop(credential, None)
        if any(asked == credential for _, asked in self._flights):
            self._changed.add(credential)

    async def aclose(self) -> None:
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        if self._database is not None:
            await self._database.dispose()

    async def _look_up(
        self,
        database: AsyncEngine,
        account: AccountId,
        credential: CredentialId,
        known: _Known | None,
        profile: ProviderProfile,
    ) -> CredentialRecord | None:
        try:
            if self._clock.monotonic() < self._away_until:
                raise TimeoutError
            # Shielded: a job that is cancelled must not take the answer from the others.
            return await asyncio.shield(self._flight(database, account, credential))
        except DATABASE_ERRORS as exc:
            if self._clock.monotonic() >= self._away_until:
                logger.warning("credentials not read", error=type(exc).__name__)
                self._away_until = self._clock.monotonic() + AWAY_SECONDS
            if known is not None:
                return known.record
            raise ProviderUnavailable(
                f"The account's own key at {profile.name} cannot be read at the moment.",
                provider=profile.id,
                status=503,
                retry_after_seconds=AWAY_SECONDS,
            ) from exc

    def _flight(
        self, database: AsyncEngine, account: AccountId, credential: CredentialId
    ) -> asyncio.Task[CredentialRecord | None]:
        key = (account, credential)
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._ask(database, account, credential), name="credential-lookup")
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    def _landed(
        self, key: tuple[AccountId, CredentialId], done: asyncio.Task[CredentialRecord | None]
    ) -> None:
        del self._flights[key]
        if not done.cancelled():
            done.exception()  # seen, also where every job that waited for it is gone

    async def _ask(
        self, database: AsyncEngine, account: AccountId, credential: CredentialId
    ) -> CredentialRecord | None:
        record: CredentialRecord | None = None
        for _ in range(3):
            self._changed.discard(credential)
            async with asyncio.timeout(ANSWER_SECONDS), database.connect() as connection:
                record = await provider_credentials.find(connection, credential, account=account)
            # Revoked meanwhile, it may have been read before and would be kept after that.
            if credential not in self._changed:
                self._remember(account, credential, record)
                break
        self._changed.discard(credential)
        return record

    def _remember(
        self, account: AccountId, credential: CredentialId, record: CredentialRecord | None
    ) -> None:
        if record is None and credential in self._known:
            return  # somebody else's: what is known of it stays
        fresh_until = self._clock.monotonic() + FRESH_SECONDS
        self._known[credential] = _Known(account, record, fresh_until)
        self._known.move_to_end(credential)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
