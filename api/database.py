"""What a route does with the database, bounded: a caller hears of an outage instead of waiting it out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from shared.db.engine import DATABASE_ERRORS
from shared.errors import Overloaded

_SECONDS: Final = 5.0


@asynccontextmanager
async def within_reach(what: str) -> AsyncIterator[None]:
    """`what`: in the plural, for the sentence. Raises Overloaded when the database is not."""
    try:
        async with asyncio.timeout(_SECONDS):
            yield
    except DATABASE_ERRORS as exc:
        raise Overloaded(f"{what} cannot be reached at the moment.", retry_after_seconds=1) from exc
