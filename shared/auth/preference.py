"""Changing what an account prefers: the row first, for it is the truth; then Redis, then every process."""

from __future__ import annotations

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.auth.announcement import announce
from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import preferences
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
    async with writing(database) as connection:
        if preference is None:
            await preferences.remove(connection, account)
        else:
            await preferences.save(connection, account, preference, at=clock.now())
    try:
        await announce(database, link, account, clock=clock, settings=settings)
    except (RedisError, OSError, TimeoutError) as error:
        raise PreferenceNotAnnounced(within_seconds=settings.key_cache_seconds) from error
