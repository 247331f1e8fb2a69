"""What a route does with the database, bounded: a caller hears of an outage instead of waiting it out.

A database that refuses a value is there: the caller is told to change the request, not to repeat it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from loguru import logger

from shared.db.engine import DATABASE_ERRORS, refuses_the_data
from shared.errors import InvalidRequest, Overloaded

_SECONDS: Final = 5.0


@asynccontextmanager
async def within_reach(what: str) -> AsyncIterator[None]:
    """`what`: in the plural, for the sentence. Raises Overloaded when the database is not,
    and InvalidRequest for values that it will not take."""
    try:
        async with asyncio.timeout(_SECONDS):
            yield
    # sqlite3's own class for an integer of more than 64 bits is none of SQLAlchemy's.
    except (*DATABASE_ERRORS, OverflowError) as exc:
        if refuses_the_data(exc):
            logger.warning("data refused by the database", what=what, error=type(exc).__name__)
            raise InvalidRequest("A value of this request is none that can be stored or looked for.") from exc
        raise Overloaded(f"{what} cannot be reached at the moment.", retry_after_seconds=1) from exc
