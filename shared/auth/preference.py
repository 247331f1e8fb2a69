"""Changing what an account prefers: the row first, for it is the truth; then Redis, then every process.

A preference is part of the principal that processes keep of each key of the account, so that no
request asks the database for it. It travels as a revocation does, but nothing marks an entry
as outdated for good; the counter does. A look-up reads the counter before the row, and what it
found is not stored over an entry that was written under a later count.
"""

from __future__ import annotations

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.auth.key_entry import KeyEntries, KeyEntry
from shared.clock import Clock
from shared.db.repositories import api_keys, preferences
from shared.domain.principal import Preference
from shared.errors import Overloaded
from shared.ids import AccountId
from shared.queue.redis_link import RedisLink
from shared.settings import AuthSettings


class PreferenceNotAnnounced(Overloaded):
    """The preference is stored, but running processes may not know it yet. Storing it again tells them."""

    def __init__(self, *, within_seconds: float) -> None:
        super().__init__(
            "The preference is stored, but Redis could not be told: running processes may not know it "
            f"for up to {within_seconds:.0f} s. Store it again to tell them at once.",
            retry_after_seconds=1.0,
        )


async def prefer(
    database: AsyncEngine,
    link: RedisLink,
    account: AccountId,
    preference: Preference | None,
    *,
    clock: Clock,
    settings: AuthSettings,
) -> None:
    """Store a preference of `account`, or none. Raises PreferenceNotAnnounced, or what the database does."""
    async with database.begin() as connection:
        if preference is None:
            await preferences.remove(connection, account)
        else:
            await preferences.save(connection, account, preference, at=clock.now())
    try:
        await _announce(database, link, account, clock=clock, settings=settings)
    except (RedisError, OSError, TimeoutError) as error:
        raise PreferenceNotAnnounced(within_seconds=settings.key_cache_seconds) from error


async def _announce(
    database: AsyncEngine, link: RedisLink, account: AccountId, *, clock: Clock, settings: AuthSettings
) -> None:
    # Counted after the commit and before the row is read again: of several changes at once,
    # the one that counted last has read the last row.
    version: int = await link.execute("INCR", keyspace.KEY_VERSION)
    async with database.connect() as connection:
        keys = await api_keys.list_of(connection, account)
        stored = await preferences.find(connection, account)
    preference = None if stored is None else stored.preference
    now = clock.now()
    entries = {key.digest: KeyEntry.of(key, preference) for key in keys if key.is_usable(now)}
    await KeyEntries(link, ttl_seconds=settings.redis_cache_seconds).store_all(entries, version=version)
    # Once more, and the messages: whoever hears of them asks Redis anew, and must find the entries.
    await link.execute("INCR", keyspace.KEY_VERSION)
    for entry in entries.values():
        await link.execute("PUBLISH", keyspace.REVOKED_CHANNEL, entry.principal.api_key)
