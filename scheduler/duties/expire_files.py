"""Files whose time is over go, and so does content that is nobody's: see shared.files.

Content without a row is a day old before it goes: its row may be on its way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.batches.handed_over import HandedOver
from shared.clock import Clock
from shared.db.engine import DATABASE_ERRORS, writing
from shared.db.repositories import batches, files
from shared.files import delete_object
from shared.storage.objects import Storage, StorageUnavailable

BATCH: Final = 500
ORPHAN_AGE: Final = timedelta(days=1)


async def expire_files(database: AsyncEngine, storage: Storage, *, clock: Clock) -> dict[str, int]:
    """How much of what went. What fails is left for the next time."""
    removed = {"files": 0, "orphans": 0, "unfinished": 0}
    before = clock.now() - ORPHAN_AGE
    try:
        removed["files"] = await _remove_expired(database, storage, clock)
        async for keys in _batches(storage.keys_before(before)):
            async with database.connect() as connection:
                orphans = set(await files.without_row(connection, keys))
                # What is handed over to a provider, or came from there, has no row either.
                for said in await batches.all_handed_over(connection):
                    orphans.difference_update(HandedOver.of(said).keys)
            for key in orphans:
                await storage.delete(key)
                removed["orphans"] += 1
        removed["unfinished"] = await storage.remove_unfinished(before)
    except (StorageUnavailable, *DATABASE_ERRORS) as exc:
        logger.warning("old files not removed", error=type(exc).__name__)
    return removed


async def _remove_expired(database: AsyncEngine, storage: Storage, clock: Clock) -> int:
    removed = 0
    while True:
        async with writing(database) as connection:
            keys = await files.remove_expired(connection, clock.now(), limit=BATCH)
        for key in keys:
            await delete_object(storage, key)
        removed += len(keys)
        if len(keys) < BATCH:
            return removed


async def _batches(keys: AsyncGenerator[str]) -> AsyncGenerator[list[str]]:
    batch: list[str] = []
    async with aclosing(keys):
        async for key in keys:
            batch.append(key)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch
