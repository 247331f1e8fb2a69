"""The results of a batch become its files, read from the rows as they are written.

A file is an object of its own until the batch names it, in one transaction with its row and the end of
the batch: dying before leaves an object that nobody sees, and the next try writes another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches import ending
from shared.batches.results import result_line
from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import batch_lines, files
from shared.db.repositories.batches import Batch
from shared.db.repositories.files import File
from shared.domain.batch import BatchForm, BatchStatus, LineState
from shared.files import delete_object
from shared.ids import new_file_id
from shared.settings import Settings
from shared.storage.objects import Storage, new_key

PURPOSE: Final = "batch_output"
_PAGE: Final = 500
_HELD_BYTES: Final = 2 * 1024 * 1024
_OUTPUT: Final = frozenset({LineState.SUCCEEDED})
_ERRORS: Final = frozenset({LineState.FAILED, LineState.CANCELLED, LineState.EXPIRED})


@dataclass(frozen=True, slots=True)
class _Written:
    key: str
    size: int


class Assembler:
    def __init__(self, storage: Storage, database: AsyncEngine, settings: Settings, clock: Clock) -> None:
        self._storage = storage
        self._database = database
        self._settings = settings
        self._clock = clock

    async def assemble(self, batch: Batch) -> None:
        """All its lines have ended. Raises StorageUnavailable, and what the database raises."""
        async with self._database.connect() as connection:
            counts = await batch_lines.counts(connection, batch.id)
            prompt, completion = await batch_lines.tokens(connection, batch.id)
        to = BatchStatus.COMPLETED
        if batch.status is BatchStatus.CANCELLING:
            to = BatchStatus.CANCELLED
        elif counts[LineState.EXPIRED]:
            to = BatchStatus.EXPIRED
        output = errors = None
        if batch.form is BatchForm.ANTHROPIC:
            output = await self._write(batch, _OUTPUT | _ERRORS)
        else:
            output = await self._write(batch, _OUTPUT) if counts[LineState.SUCCEEDED] else None
            errors = await self._write(batch, _ERRORS) if any(counts[s] for s in _ERRORS) else None
        now = self._clock.now()
        rows = [
            None if written is None else self._row(batch, written, name, now)
            for written, name in ((output, "output"), (errors, "errors"))
        ]
        values: dict[str, Any] = {
            "output_file_id": None if rows[0] is None else rows[0].id,
            "error_file_id": None if rows[1] is None else rows[1].id,
            "completed": counts[LineState.SUCCEEDED],
            "failed": counts[LineState.FAILED],
            "cancelled": counts[LineState.CANCELLED],
            "expired": counts[LineState.EXPIRED],
            "results_expire_at": self._expires_at(batch, now),
            "options": batch.options | {"usage": {"prompt": prompt, "completion": completion}},
        }
        async with writing(self._database) as connection:
            ended = await ending.end(connection, batch, to, at=now, **values)
            for row in rows if ended else ():
                if row is not None:
                    await files.create(connection, row)
        if not ended:
            for written in (output, errors):
                if written is not None:
                    await delete_object(self._storage, written.key)
            return
        logger.info(
            "batch ended", batch_id=batch.id, status=to.value, **{s.value: n for s, n in counts.items()}
        )
        await self.drop_results(batch)

    async def drop_results(self, batch: Batch) -> None:
        """Those in the table, which are in a file by now."""
        done = _PAGE
        while done == _PAGE:
            async with writing(self._database) as connection:
                done = await batch_lines.drop_results(connection, batch.id, limit=_PAGE)

    async def _write(self, batch: Batch, states: Collection[LineState]) -> _Written:
        key, size = new_key(), 0
        async with self._storage.open_writer(key) as writer:
            async for line in self._lines(batch, states):
                size += len(line)
                await writer.write(line)
        return _Written(key, size)

    async def _lines(self, batch: Batch, states: Collection[LineState]) -> AsyncIterator[bytes]:
        after = 0
        while True:
            async with self._database.connect() as connection:
                page = await batch_lines.sizes(connection, batch.id, states, after=after, limit=_PAGE)
            if not page:
                return
            after = page[-1][0]
            for group in _groups(page):
                async with self._database.connect() as connection:
                    ended = await batch_lines.ended(connection, batch.id, group)
                yield b"".join(result_line(batch.form, batch.id, line) + b"\n" for line in ended)

    def _row(self, batch: Batch, written: _Written, name: str, now: datetime) -> File:
        return File(
            id=new_file_id(),
            account_id=batch.account_id,
            created_by=batch.user_id or batch.api_key_id,
            filename=f"{batch.id}_{name}.jsonl",
            purpose=PURPOSE,
            size_bytes=written.size,
            storage_key=written.key,
            created_at=now,
            expires_at=self._expires_at(batch, now),
        )

    def _expires_at(self, batch: Batch, now: datetime) -> datetime | None:
        if batch.output_seconds is not None:
            return now + timedelta(seconds=batch.output_seconds)
        days = self._settings.batches.results_retain_days
        return now + timedelta(days=days) if days else None


def _groups(page: list[tuple[int, int]]) -> list[list[int]]:
    """Ordinals of lines that may be held at once, however large their results are."""
    groups: list[list[int]] = [[]]
    held = 0
    for ordinal, size in page:
        if groups[-1] and held + size > _HELD_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(ordinal)
        held += size
    return groups
