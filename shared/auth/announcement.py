"""Something changed that the principals of an account are made of: Redis and every process hear of it.

A principal is kept by processes and by Redis, so that no request asks the database for it. A
change travels as a revocation does, but nothing marks an entry as outdated for good; the
counter does. A look-up reads the counter before the row, and what it found is not stored
over an entry that was written under a later count.
"""

from __future__ import annotations

from collections.abc import Iterable

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.auth.key_entry import KeyEntries, KeyEntry
from shared.clock import Clock
from shared.db.repositories import principals
from shared.errors import Overloaded
from shared.ids import AccountId, UserId
from shared.queue.redis_link import RedisLink
from shared.settings import AuthSettings


class ChangeNotAnnounced(Overloaded):
    """The change is stored, but running processes may not know it yet. Making it again tells them."""

    def __init__(self, *, within_seconds: float) -> None:
        super().__init__(
            "The change is stored, but Redis could not be told: running processes may not know it "
            f"for up to {within_seconds:.0f} s. Make it again to tell them at once.",
            retry_after_seconds=1.0,
        )


async def tell(
    database: AsyncEngine,
    link: RedisLink,
    accounts: Iterable[AccountId],
    *,
    clock: Clock,
    settings: AuthSettings,
    left: Iterable[UserId] = (),
) -> None:
    """`announce` of several, for people. Raises ChangeNotAnnounced, or what the database does."""
    gone = tuple(left)
    try:
        for account in accounts:
            await announce(database, link, account, clock=clock, settings=settings, left=gone)
    except (RedisError, OSError, TimeoutError) as error:
        raise ChangeNotAnnounced(within_seconds=settings.key_cache_seconds) from error


async def announce(
    database: AsyncEngine,
    link: RedisLink,
    account: AccountId,
    *,
    clock: Clock,
    settings: AuthSettings,
    left: Iterable[UserId] = (),
) -> None:
    """Call it once the change is committed. `left`: who is no member any more.

    Raises what Redis or the database does.
    """
    # Counted after the commit and before the row is read again: of several changes at once,
    # the one that counted last has read the last row.
    version: int = await link.execute("INCR", keyspace.KEY_VERSION)
    async with database.connect() as connection:
        holders = await principals.of_account(connection, account, clock.now())
    entries = KeyEntries(link, ttl_seconds=settings.redis_cache_seconds)
    usable = {holder.digest: KeyEntry.of(holder) for holder in holders if holder.is_usable}
    await entries.store_all(usable, version=version)
    unusable = [holder.digest for holder in holders if holder.digest not in usable]
    gone = {principals.session_digest(user, account): user for user in left}
    for digest in (*unusable, *(gone.keys() - usable.keys())):
        await entries.mark_unusable(digest, version=version)
    # Once more, and the messages: whoever hears of them asks Redis anew, and must find the entries.
    await link.execute("INCR", keyspace.KEY_VERSION)
    for holder in holders:
        await link.execute("PUBLISH", keyspace.REVOKED_CHANNEL, holder.principal.api_key)
    for user in gone.values():
        await link.execute("PUBLISH", keyspace.REVOKED_CHANNEL, user)
