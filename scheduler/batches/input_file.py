"""The input of a batch: its lines from the first on, or those at known places."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import Clock
from shared.db.repositories import files
from shared.db.repositories.batch_lines import Place
from shared.db.repositories.batches import Batch
from shared.db.repositories.files import File
from shared.files import read_lines
from shared.storage.objects import Storage

_GAP_BYTES: Final = 1024 * 1024
"""What is not wanted between two lines is read up to this; beyond it, reading begins anew."""


async def input_of(database: AsyncEngine, batch: Batch, clock: Clock) -> File | None:
    """None where its owner deleted it, or it expired."""
    async with database.connect() as connection:
        return await files.find(connection, batch.account_id, batch.input_file_id, now=clock.now())


async def lines_at(
    storage: Storage, key: str, places: Sequence[Place], *, longest: int
) -> AsyncGenerator[tuple[Place, bytes]]:
    """`places` in the order of the file. Raises NoSuchObject."""
    rest = list(places)
    while rest:
        run = _without_gaps(rest)
        rest = rest[len(run) :]
        async with aclosing(read_lines(storage, key, run[0].offset, max_line_bytes=longest)) as lines:
            wanted = iter(run)
            place = next(wanted)
            async for line in lines:
                if line.offset < place.offset:
                    continue
                yield place, line.data or b""
                following = next(wanted, None)
                if following is None:
                    break
                place = following


def _without_gaps(places: Sequence[Place]) -> Sequence[Place]:
    for n in range(1, len(places)):
        before = places[n - 1]
        if places[n].offset - before.offset - before.length > _GAP_BYTES:
            return places[:n]
    return places
