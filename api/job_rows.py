"""Rows of accepted jobs, written together: one commit for all that arrive while the last one is made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.engine import writing
from shared.db.repositories import jobs
from shared.db.repositories.jobs import NewJob

_MOST: int = 200

_Waiting = tuple[NewJob, asyncio.Future[bool]]


class JobRows:
    """One a process. A row that waits for nobody is written at once."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, new: NewJob) -> bool:
        """Committed once this returns; False where its id or its Idempotency-Key is taken. Raises what
        the database does.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((new, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="job-rows")
        return await done

    async def aclose(self) -> None:
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                await self._write(batch)
        finally:
            self._writing = None

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        try:
            async with writing(self._database) as connection:
                created = await jobs.create(connection, [new for new, _ in batch])
        except Exception as exc:
            for _, done in batch:
                if not done.done():
                    done.set_exception(exc)
            return
        for new, done in batch:
            # Of several with one id, the first is it.
            is_new = new.job.id in created
            created.discard(new.job.id)
            if not done.done():
                done.set_result(is_new)
