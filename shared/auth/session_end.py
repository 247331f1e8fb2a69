"""Ending sessions everywhere: Redis, then every process. The database was told before (sessions.py)."""

from __future__ import annotations

from datetime import timedelta

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.auth.access_tokens import LEEWAY
from shared.auth.announcement import announce
from shared.auth.key_entry import KeyEntries
from shared.clock import Clock
from shared.db.repositories import memberships
from shared.errors import Overloaded
from shared.ids import UserId
from shared.queue.redis_link import RedisLink
from shared.settings import AuthSettings


class EndNotAnnounced(Overloaded):
    """The session cannot be renewed any more, but its access token may be accepted until it expires."""

    def __init__(self) -> None:
        super().__init__(
            "The session is ended, but Redis could not be told: its access token may be accepted until it "
            "expires. Log out again to end it at once.",
            retry_after_seconds=1.0,
        )


async def end(
    link: RedisLink, session: str, user: UserId, *, life: timedelta, settings: AuthSettings
) -> None:
    """One session. `life`: of an access token: there may be newer ones than the one that was shown.

    Raises EndNotAnnounced.
    """
    entries = KeyEntries(link, ttl_seconds=settings.redis_cache_seconds)
    try:
        await entries.mark_ended(session, seconds=int((life + LEEWAY).total_seconds()) + 1)
        # The mark before the counter and the message: whoever hears of them asks Redis anew.
        await link.execute("INCR", keyspace.KEY_VERSION)
        await link.execute("PUBLISH", keyspace.REVOKED_CHANNEL, user)
    except (RedisError, OSError, TimeoutError) as exc:
        raise EndNotAnnounced from exc


async def end_all(
    database: AsyncEngine, link: RedisLink, user: UserId, *, clock: Clock, settings: AuthSettings
) -> None:
    """Every session of a user, whose token version was raised, or who was disabled; and its keys, if so.

    Raises EndNotAnnounced, or what the database does.
    """
    async with database.connect() as connection:
        accounts = await memberships.accounts_of(connection, user)
    try:
        for account in accounts:
            await announce(database, link, account, clock=clock, settings=settings)
    except (RedisError, OSError, TimeoutError) as exc:
        raise EndNotAnnounced from exc
