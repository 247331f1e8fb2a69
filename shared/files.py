"""Files: an object of the storage and a row that says whose it is.

    written   object first, then its row: a row always has its content
    removed   row first, then its object

A process that dies in between leaves an object without a row, which nobody can see and which the
scheduler sweeps once it is a day old (scheduler/duties/expire_files.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import Clock, SystemClock
from shared.db.engine import writing
from shared.db.repositories import files
from shared.db.repositories.files import File
from shared.errors import PayloadTooLarge
from shared.ids import AccountId, new_file_id
from shared.settings import StorageSettings
from shared.storage.objects import Storage, StorageUnavailable, new_key

MAX_LINE_BYTES: Final = 10 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


class StorageQuotaExceeded(PayloadTooLarge):
    """Not a 429: clients would upload all of it again, and nothing is freed by waiting."""

    code = "storage_quota_exceeded"


async def write_file(
    engine: AsyncEngine,
    storage: Storage,
    *,
    account: AccountId,
    filename: str,
    purpose: str,
    chunks: AsyncIterator[bytes],
    created_by: str,
    expires_at: datetime | None,
    clock: Clock | None = None,
) -> File:
    """A new file, durable once this returns. The account's quota is not asked: what has been done
    for it is kept. Raises StorageUnavailable, or one of DATABASE_ERRORS.
    """
    key, size = new_key(), 0
    async with storage.open_writer(key) as writer:
        async for chunk in chunks:
            size += len(chunk)
            await writer.write(chunk)
    new = File(
        id=new_file_id(),
        account_id=account,
        created_by=created_by,
        filename=filename,
        purpose=purpose,
        size_bytes=size,
        storage_key=key,
        created_at=(clock or SystemClock()).now(),
        expires_at=expires_at,
    )
    await keep(engine, storage, new)
    return new


async def keep(
    engine: AsyncEngine, storage: Storage, new: File, *, quota: StorageSettings | None = None
) -> None:
    """The row of a file whose content is in the storage. Raises StorageQuotaExceeded, and its content is
    gone then, or one of DATABASE_ERRORS: whether there is a row then is not known, so the content stays.
    """
    try:
        async with writing(engine) as connection:
            if quota is not None:
                held = await files.held(connection, new.account_id, alone=True)
                check_quota(held, new.size_bytes, quota)
            await files.create(connection, new)
    except StorageQuotaExceeded:
        await delete_object(storage, new.storage_key)
        raise


def check_quota(held: files.Held, size_bytes: int, quota: StorageSettings) -> None:
    """Whether one more of that size fits. Raises StorageQuotaExceeded."""
    if quota.account_max_files and held.files >= quota.account_max_files:
        raise StorageQuotaExceeded(
            f"The account has {held.files} files, and may have {quota.account_max_files}: delete some.",
            details={"limit_files": quota.account_max_files},
        )
    if quota.account_max_bytes and held.size_bytes + size_bytes > quota.account_max_bytes:
        raise StorageQuotaExceeded(
            f"The files of the account would be larger than {quota.account_max_bytes} bytes: delete some.",
            details={"limit_bytes": quota.account_max_bytes, "used_bytes": held.size_bytes},
        )


async def delete_object(storage: Storage, key: str) -> None:
    """Of a file that has no row any more. If that fails it is swept later."""
    try:
        await storage.delete(key)
    except StorageUnavailable:
        logger.warning("object not deleted")


@dataclass(frozen=True, slots=True)
class Line:
    """`offset`, `length`: where it is in the file, without its line end; `data`: None where it is longer
    than may be held.
    """

    offset: int
    length: int
    data: bytes | None


async def read_lines(
    storage: Storage, key: str, offset: int = 0, *, max_line_bytes: int = MAX_LINE_BYTES
) -> AsyncGenerator[Line]:
    """From `offset`, which is where a line starts.

    Lines end in LF or CRLF, the last one perhaps in nothing. A byte order mark at the start of the
    file is no part of its first line. No more than a line and a chunk is held. Raises NoSuchObject.
    """
    line = _Growing(offset, max_line_bytes)
    async with aclosing(storage.read(key, offset=offset)) as chunks:
        async for chunk in chunks:
            begin = 0
            while (end := chunk.find(b"\n", begin)) >= 0:
                line.add(memoryview(chunk)[begin:end])
                yield line.ended()
                line = _Growing(line.offset + line.length + 1, max_line_bytes)
                begin = end + 1
            line.add(memoryview(chunk)[begin:])
    if line.length:
        yield line.ended()


class _Growing:
    """A line of which more may come."""

    def __init__(self, offset: int, max_bytes: int) -> None:
        self.offset = offset
        self.length = 0
        self._data = bytearray()
        # And the CR of its line end, and a byte order mark.
        self._max_bytes = max_bytes + 1 + len(_BOM)
        self._allowed = max_bytes

    def add(self, more: memoryview) -> None:
        self.length += len(more)
        room = self._max_bytes - len(self._data)
        # One byte too many tells that it was.
        self._data += more[: max(0, room + 1)]

    def ended(self) -> Line:
        data = self._data.removesuffix(b"\r") if self.length == len(self._data) else self._data
        mark = len(_BOM) if self.offset == 0 and data.startswith(_BOM) else 0
        length = self.length - (len(self._data) - len(data)) - mark
        held = bytes(data[mark:]) if length <= self._allowed else None
        return Line(self.offset + mark, length, held)
