"""From a key, or a session's access token, to its principal: this process, then Redis, then the database.

    token -> cached() ---------------------------> principal     the hot path: one dict, no await
               |  not here, or looked up key_cache_seconds ago
               v
           resolve() -> form and checksum --------> 401           no store is asked
               |     -> refused a moment ago -----> 401
               v        one flight per key
           Redis  -> revoked ---------------------> 401
               |  -> asked the database lately ---> principal
               v
           database -> row ------------> principal, told to Redis
               |    -> no row, revoked, expired --> 401
               v  away, or slow to say what Redis still holds
           what Redis had, else what this process knew, for stale_seconds, else 503

An access token of somebody else (issuers.py) is verified first; then its account is asked about.
One of ours says by itself who it is of, once its signature was checked; what that user may do
is asked as it is of a key, and besides whether the session was ended.

With no store to ask, a key this process does not know is neither good nor bad: 503, never 401.

A revocation reaches every process three ways: a message (on_revoked), a counter that is
polled in case the message was lost (on_version), and the age of what is cached. So does a
changed preference of its account (preference.py), which is part of the principal.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from loguru import logger
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.auth.access_tokens import LEEWAY, AccessTokens, Claims, looks_like_one
from shared.auth.api_keys import digest as digest_of
from shared.auth.api_keys import parse
from shared.auth.issuers import ForeignClaims, Issuers
from shared.auth.key_entry import KeyEntries, KeyEntry, Mark
from shared.clock import Clock, SystemClock
from shared.db.engine import DATABASE_ERRORS
from shared.db.repositories import principals
from shared.domain.principal import Principal
from shared.errors import AuthenticationFailed, Overloaded
from shared.ids import ApiKeyId
from shared.queue.redis_link import RedisLink
from shared.settings import AuthSettings

KNOWN_KEYS: Final = 50_000
"""Keys one process remembers; about 30 MB when full."""
REFUSED_KEYS: Final = 10_000
REFUSED_SECONDS: Final = 2.0
"""How long a refusal is repeated without asking; also how long a new key may seem unknown."""
AWAY_SECONDS: Final = 1.0
"""How long a store that failed is not asked again: one caller a second pays for its silence, not all."""
DATABASE_SECONDS: Final = 2.0
RENEWAL_SECONDS: Final = 0.25
"""How long a caller whose key Redis holds waits for the database to say the same. It is still asked
to the end: a revocation it knows of is then in Redis for the next look."""
FLIGHTS: Final = 1_000
"""Look-ups under way at once; well-formed but unknown keys are cheap to make up."""
DATABASE_LOOKUPS: Final = 4
"""Of the pool's connections, how many a flood of unknown keys may hold."""

_REFUSED_MESSAGE: Final = "The API key is unknown, expired or revoked."


class _No(Enum):
    REFUSED = "refused"
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the stores are asked about. `claims`: of an access token, `foreign`: of one of others."""

    token: str
    digest: str
    claims: Claims | None = None
    foreign: ForeignClaims | None = None

    @property
    def flight(self) -> str:
        """The same for what gets the same answer."""
        return self.digest if self.claims is None and self.foreign is None else self.token

    @property
    def expires_at(self) -> datetime | None:
        said = self.claims or self.foreign
        return None if said is None else said.expires_at + LEEWAY

    def principal(self, entry: KeyEntry) -> Principal:
        return entry.principal if self.foreign is None else self.foreign.within(entry.principal)

    def fits(self, entry: KeyEntry) -> bool:
        return self.claims is None or self.claims.version == entry.version

    def is_ahead_of(self, entry: KeyEntry) -> bool:
        """Issued since the entry was read."""
        return self.claims is not None and self.claims.version > (entry.version or 0)


@dataclass(slots=True)
class _Known:
    """Good without asking until `fresh_until`; good if nobody can be asked until `stale_until`. Monotonic.

    `made_of`: whose changes it hears of.
    """

    principal: Principal
    made_of: ApiKeyId
    fresh_until: float
    stale_until: float


class _Store:
    """Whether a store is worth asking: for a moment after a failure it is not."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._away_until = 0.0

    @property
    def is_away(self) -> bool:
        return self._clock.monotonic() < self._away_until

    def failed(self, error: BaseException) -> None:
        if not self.is_away:
            logger.warning("key store away", store=self._name, error=type(error).__name__)
        self._away_until = self._clock.monotonic() + AWAY_SECONDS


class KeyLookup:
    """One a process."""

    def __init__(
        self,
        link: RedisLink,
        database: AsyncEngine,
        *,
        pepper: bytes,
        settings: AuthSettings,
        tokens: AccessTokens | None = None,
        issuers: Issuers | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`tokens`: reads access tokens, where there are any; `issuers`: those of others."""
        self._tokens = tokens
        self._issuers = issuers
        self._entries = KeyEntries(link, ttl_seconds=settings.redis_cache_seconds)
        self._database = database
        self._pepper = pepper
        self._trust_seconds = settings.key_cache_seconds
        self._stale_seconds = settings.stale_seconds
        self._clock = clock or SystemClock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        """By the whole token, least recently looked up first."""
        self._tokens_of: dict[ApiKeyId, set[str]] = {}
        self._refused: OrderedDict[str, float] = OrderedDict()
        """Until when, by flight."""
        self._flights: dict[str, asyncio.Task[Principal | _No]] = {}
        self._renewals: dict[str, asyncio.Task[KeyEntry | _No]] = {}
        """By digest: the database being asked about what Redis holds."""
        self._database_turn = asyncio.Semaphore(DATABASE_LOOKUPS)
        self._redis_store = _Store("redis", self._clock)
        self._database_store = _Store("database", self._clock)
        self._version: int | None = None
        self._revocations_heard = 0

    def cached(self, token: str) -> Principal | None:
        """The principal, if this process looked the key up lately. Asks nobody; under a microsecond."""
        known = self._known.get(token)
        if known is None or self._clock.monotonic() >= known.fresh_until:
            return None
        return known.principal

    async def resolve(self, token: str) -> Principal:
        """Raises AuthenticationFailed, or Overloaded when the stores that could tell are away."""
        if (principal := self.cached(token)) is not None:
            return principal
        if self._issuers is not None and self._issuers.know(token):
            foreign = await self._issuers.read(token)
            shown = _Shown(token, principals.account_digest(foreign.account), foreign=foreign)
        else:
            shown = self._shown(token)
        if self._clock.monotonic() < self._refused.get(shown.flight, 0.0):
            raise AuthenticationFailed(_REFUSED_MESSAGE)
        # Shielded: a caller who leaves must not take the answer from the others.
        answer = await asyncio.shield(self._flight(shown))
        if answer is _No.REFUSED:
            raise AuthenticationFailed(_REFUSED_MESSAGE)
        if answer is _No.AWAY:
            raise Overloaded("The API key cannot be checked at the moment.", retry_after_seconds=AWAY_SECONDS)
        return answer

    def claims(self, token: str) -> Claims | None:
        """What an access token of ours says; None of anything else. Raises AuthenticationFailed."""
        if self._tokens is None or not looks_like_one(token):
            return None
        if self._issuers is not None and self._issuers.know(token):
            return None
        return self._tokens.read(token)

    def on_revoked(self, api_key_id: ApiKeyId) -> None:
        """A message on keyspace.REVOKED_CHANNEL arrived: ask about this key anew."""
        self._revocations_heard += 1
        for token in self._tokens_of.pop(api_key_id, ()):
            self._known.pop(token, None)

    def on_version(self, version: int) -> None:
        """keyspace.KEY_VERSION as polled every 2 s, 0 when it is missing.

        Unseen, it means changes whose messages may have been lost: forget everything,
        and ask Redis about each key anew.
        """
        if version != self._version:
            self._version = version
            self.forget_all()

    def forget_all(self) -> None:
        self._revocations_heard += 1
        self._known.clear()
        self._tokens_of.clear()

    async def aclose(self) -> None:
        running = [*self._flights.values(), *self._renewals.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._issuers is not None:
            await self._issuers.aclose()

    def _shown(self, token: str) -> _Shown:
        """Raises AuthenticationFailed for what no store need be asked about."""
        claims = self.claims(token)
        if claims is not None:
            return _Shown(token, principals.session_digest(claims.user, claims.account), claims)
        if parse(token) is None:
            raise AuthenticationFailed("The API key is not well-formed.")
        return _Shown(token, digest_of(self._pepper, token))

    def _flight(self, shown: _Shown) -> asyncio.Task[Principal | _No]:
        """The look-up of this key: the one under way, or a new one."""
        flight = self._flights.get(shown.flight)
        if flight is None:
            if len(self._flights) >= FLIGHTS:
                raise Overloaded("Too many API keys are being checked.", retry_after_seconds=AWAY_SECONDS)
            flight = asyncio.create_task(self._look_up(shown), name="key-lookup")
            self._flights[shown.flight] = flight
            flight.add_done_callback(lambda _: self._flights.pop(shown.flight, None))
        return flight

    async def _look_up(self, shown: _Shown) -> Principal | _No:
        for _ in range(3):
            heard = self._revocations_heard
            answer = await self._ask(shown)
            if isinstance(answer, KeyEntry) and (not shown.fits(answer) or await self._has_ended(shown)):
                answer = _No.REFUSED
            # A revocation heard meanwhile may be of this key, read before and kept after it.
            if heard == self._revocations_heard:
                break
        else:
            return answer if isinstance(answer, _No) else shown.principal(answer)
        if isinstance(answer, KeyEntry):
            self._remember(shown, answer)
            return shown.principal(answer)
        if answer is _No.REFUSED:
            self._forget(shown.token)
            self._refuse(shown.flight)
            return answer
        known = self._known.get(shown.token)
        if known is None or self._clock.monotonic() >= known.stale_until:
            return _No.AWAY
        known.fresh_until = min(known.stale_until, self._clock.monotonic() + AWAY_SECONDS)
        return known.principal

    async def _ask(self, shown: _Shown) -> KeyEntry | _No:
        now, digest = self._clock.now(), shown.digest
        held, version = await self._ask_redis(digest)
        if held is Mark.REVOKED:
            return _No.REFUSED
        if isinstance(held, KeyEntry):
            if held.has_expired(now):
                return _No.REFUSED
            if held.age_seconds < self._trust_seconds and not shown.is_ahead_of(held):
                return held
            renewal = self._renewal(digest, version)
            await asyncio.wait({renewal}, timeout=RENEWAL_SECONDS)
            if renewal.done() and (answer := renewal.result()) is not _No.AWAY:
                return answer
            await self._tell_redis_to_keep(digest)
            return held
        found = await self._ask_database(digest, now)
        if isinstance(found, _No):
            return found
        if found is None:
            return _No.REFUSED
        return found if await self._tell_redis(digest, found, version) else _No.REFUSED

    async def _has_ended(self, shown: _Shown) -> bool:
        """Whether its session did. While Redis is away nobody can tell, and the token is short-lived."""
        if shown.claims is None or self._redis_store.is_away:
            return False
        try:
            return await self._entries.has_ended(shown.claims.session)
        except (RedisError, OSError, TimeoutError) as error:
            self._redis_store.failed(error)
            return False

    def _renewal(self, digest: str, version: int) -> asyncio.Task[KeyEntry | _No]:
        """What the database says of an entry of Redis: the look under way, or a new one."""
        renewal = self._renewals.get(digest)
        if renewal is None:
            renewal = asyncio.create_task(self._renew(digest, version), name="key-renewal")
            self._renewals[digest] = renewal
            renewal.add_done_callback(lambda _: self._renewals.pop(digest, None))
        return renewal

    async def _renew(self, digest: str, version: int) -> KeyEntry | _No:
        found = await self._ask_database(digest, self._clock.now())
        if isinstance(found, _No):
            return found
        if found is None:
            # Revoked while Redis was away: what it still holds would let others in.
            await self._tell_redis_it_is_revoked(digest)
            return _No.REFUSED
        return found if await self._tell_redis(digest, found, version) else _No.REFUSED

    async def _ask_redis(self, digest: str) -> tuple[KeyEntry | Mark | None, int]:
        """What it holds, None when it is away, and the count of changes."""
        if self._redis_store.is_away:
            return None, 0
        try:
            return await self._entries.read(digest)
        except (RedisError, OSError, TimeoutError) as error:
            self._redis_store.failed(error)
            return None, 0

    async def _ask_database(self, digest: str, now: datetime) -> KeyEntry | _No | None:
        """None for a key that is unknown, expired or revoked."""
        async with self._database_turn:
            if self._database_store.is_away:
                return _No.AWAY
            try:
                async with asyncio.timeout(DATABASE_SECONDS), self._database.connect() as connection:
                    holder = await principals.of_digest(connection, digest, now)
                    return KeyEntry.of(holder) if holder is not None and holder.is_usable else None
            except DATABASE_ERRORS as error:
                self._database_store.failed(error)
                return _No.AWAY

    async def _tell_redis(self, digest: str, entry: KeyEntry, version: int) -> bool:
        """False: it knows that the key was revoked."""
        if self._redis_store.is_away:
            return True
        try:
            return await self._entries.store(digest, entry, version=version)
        except (RedisError, OSError, TimeoutError) as error:
            self._redis_store.failed(error)
            return True

    async def _tell_redis_to_keep(self, digest: str) -> None:
        if not self._redis_store.is_away:
            try:
                await self._entries.extend(digest)
            except (RedisError, OSError, TimeoutError) as error:
                self._redis_store.failed(error)

    async def _tell_redis_it_is_revoked(self, digest: str) -> None:
        if not self._redis_store.is_away:
            try:
                await self._entries.mark_revoked(digest)
            except (RedisError, OSError, TimeoutError) as error:
                self._redis_store.failed(error)

    def _remember(self, shown: _Shown, entry: KeyEntry) -> None:
        now, token = self._clock.monotonic(), shown.token
        life = _seconds_left(entry.expires_at, self._clock.now())
        life = min(life, _seconds_left(shown.expires_at, self._clock.now()))
        # What Redis trusted for a while already is trusted that much less here; not for less
        # than a moment, or an old entry in a database outage would be asked for at every call.
        fresh = max(self._trust_seconds - entry.age_seconds, AWAY_SECONDS)
        self._known[token] = _Known(
            shown.principal(entry),
            entry.principal.api_key,
            fresh_until=now + min(fresh, life),
            stale_until=now + min(fresh + self._stale_seconds, life),
        )
        self._known.move_to_end(token)
        self._tokens_of.setdefault(entry.principal.api_key, set()).add(token)
        if len(self._known) > KNOWN_KEYS:
            oldest, known = self._known.popitem(last=False)
            self._drop(oldest, known)

    def _forget(self, token: str) -> None:
        known = self._known.pop(token, None)
        if known is not None:
            self._drop(token, known)

    def _drop(self, token: str, known: _Known) -> None:
        of_key = self._tokens_of.get(known.made_of)
        if of_key is not None:
            of_key.discard(token)
            if not of_key:
                del self._tokens_of[known.made_of]

    def _refuse(self, flight: str) -> None:
        self._refused[flight] = self._clock.monotonic() + REFUSED_SECONDS
        self._refused.move_to_end(flight)
        if len(self._refused) > REFUSED_KEYS:
            self._refused.popitem(last=False)


def _seconds_left(expires_at: datetime | None, now: datetime) -> float:
    return float("inf") if expires_at is None else (expires_at - now).total_seconds()
