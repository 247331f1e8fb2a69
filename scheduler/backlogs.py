"""What waits in the database, read for scrapes: seldom, and never long."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import Clock, SystemClock
from shared.db.engine import DATABASE_ERRORS
from shared.db.repositories import backlogs
from shared.observability.metrics import Reading

_REMEMBERED_SECONDS: Final = 5.0
_READ_SECONDS: Final = 2.0


class BacklogReader:
    def __init__(self, database: AsyncEngine, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._found: list[Reading] = []
        self._read_at = -_REMEMBERED_SECONDS

    async def look(self) -> list[Reading]:
        """Nothing where the database does not answer."""
        if time.monotonic() - self._read_at >= _REMEMBERED_SECONDS:
            # Before, too: scrapes that come meanwhile must not all ask a database that is slow.
            self._read_at, self._found = time.monotonic(), []
            self._found = await self._read()
        return self._found

    async def _read(self) -> list[Reading]:
        now = self._clock.now()
        try:
            async with asyncio.timeout(_READ_SECONDS), self._database.connect() as connection:
                found = await backlogs.look(connection, now=now)
        except DATABASE_ERRORS:
            return []
        since = found.due_since
        return [
            Reading("gateway_webhooks_due", found.due_webhooks),
            Reading("gateway_webhook_due_seconds", 0.0 if since is None else (now - since).total_seconds()),
            Reading("gateway_batch_lines_open", found.open_lines),
        ]
