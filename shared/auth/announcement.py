"""Something changed that the principals of an account are made of: Redis and every process hear of it.

A principal is kept by processes and by Redis, so that no request asks the database for it. A
change travels as a revocation does, but nothing marks an entry as outdated for good; the
counter does. A look-up reads the counter before the row, and what it found is not stored
over an entry that was written under a later count.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.auth.key_entry import KeyEntries, KeyEntry
from shared.clock import Clock
from shared.db.repositories import principals
from shared.ids import AccountId
from shared.queue.redis_link import RedisLink
from shared.settings import AuthSettings


async def announce(
    database: AsyncEngine, link: RedisLink, account: AccountId, *, clock: Clock, settings: AuthSettings
) -> None:
    """Call it once the change is committed. Raises what Redis or the database does."""
    # Counted after the commit and before the row is read again: of several changes at once,
    # the one that counted last has read the last row.
    version: int = await link.execute("INCR", keyspace.KEY_VERSION)
    async with database.connect() as connection:
        holders = await principals.of_account(connection, account, clock.now())
    entries = KeyEntries(link, ttl_seconds=settings.redis_cache_seconds)
    usable = {holder.digest: KeyEntry.of(holder) for holder in holders if holder.is_usable}
    await entries.store_all(usable, version=version)
    for holder in holders:
        if not holder.is_usable:
            await entries.mark_revoked(holder.digest)
    # Once more, and the messages: whoever hears of them asks Redis anew, and must find the entries.
    await link.execute("INCR", keyspace.KEY_VERSION)
    for holder in holders:
        await link.execute("PUBLISH", keyspace.REVOKED_CHANNEL, holder.principal.api_key)
