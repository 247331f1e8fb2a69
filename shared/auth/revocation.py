"""Revoking a key: the row first, for it is the truth; then Redis, then every process."""

from __future__ import annotations

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.auth.key_entry import KeyEntries
from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import api_keys
from shared.errors import NotFound, Overloaded
from shared.ids import AccountId, ApiKeyId
from shared.queue.redis_link import RedisLink
from shared.settings import AuthSettings


class RevocationNotAnnounced(Overloaded):
    """The key is revoked for good, but running processes may not know it yet. Revoking again tells them."""

    def __init__(self, *, within_seconds: float) -> None:
        super().__init__(
            "The key is revoked, but Redis could not be told: running processes may accept it "
            f"for up to {within_seconds:.0f} s. Revoke it again to tell them at once.",
            retry_after_seconds=1.0,
        )


async def revoke(
    database: AsyncEngine,
    link: RedisLink,
    key_id: ApiKeyId,
    *,
    clock: Clock,
    settings: AuthSettings,
    account: AccountId | None = None,
) -> None:
    """Revoke a key of `account`, or, for the operator, of anybody (None). Again is harmless.

    Raises NotFound, or RevocationNotAnnounced.
    """
    digest = await revoke_row(database, key_id, clock=clock, account=account)
    await announce_revoked(link, key_id, digest, settings=settings)


async def announce_revoked(link: RedisLink, key_id: ApiKeyId, digest: str, *, settings: AuthSettings) -> None:
    """Call it once the row is committed. Raises RevocationNotAnnounced."""
    try:
        # The mark before the counter and the message: whoever hears of them asks Redis anew,
        # and must find it.
        await KeyEntries(link, ttl_seconds=settings.redis_cache_seconds).mark_revoked(digest)
        await link.execute("INCR", keyspace.KEY_VERSION)
        await link.execute("PUBLISH", keyspace.REVOKED_CHANNEL, key_id)
    except (RedisError, OSError, TimeoutError) as error:
        raise RevocationNotAnnounced(within_seconds=settings.key_cache_seconds) from error


async def revoke_row(
    database: AsyncEngine, key_id: ApiKeyId, *, clock: Clock, account: AccountId | None = None
) -> str:
    """Revoke the key in the database alone, committed; returns its digest.

    For where no Redis is known: running processes follow within `key_cache_seconds`.
    """
    async with writing(database) as connection:
        if account is None:
            digest = await api_keys.revoke_for_operator(connection, key_id, at=clock.now())
        else:
            digest = await api_keys.revoke(connection, key_id, account=account, at=clock.now())
    if digest is None:
        raise NotFound("There is no such API key.")
    return digest
