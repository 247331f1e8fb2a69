"""Objects as files of a local folder.

    <folder>/3f/obj-3f...          an object
    <folder>/unfinished/obj-3f...  one that is being written, or that a dead process left

A file is synced, then renamed into its place, and then the folder is synced that names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from loguru import logger

from shared.storage.objects import CHUNK_BYTES, KEY, NoSuchObject, StorageUnavailable, Writer

_THREADS: Final = 8
_LISTED_AT_ONCE: Final = 500
_Result = TypeVar("_Result")


class FolderStorage:
    """A storage; every call that may block has a thread, of its own few."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unfinished = folder / "unfinished"
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage")

    @asynccontextmanager
    async def open_writer(self, key: str) -> AsyncIterator[Writer]:
        unfinished = self._unfinished / _checked(key)
        writer = _FileWriter(await self._apart(lambda: self._create(unfinished)), self._apart)
        try:
            yield writer
            await writer.flush()
            await self._apart(lambda: self._commit(writer.file, unfinished, self._path(key)))
        except BaseException as exc:
            await self._apart(lambda: _discard(writer.file, unfinished, self._path(key)))
            if isinstance(exc, NoSuchObject):  # somebody took the folder away meanwhile
                raise StorageUnavailable from exc
            raise

    async def read(self, key: str, *, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        path = self._path(_checked(key))
        file = await self._apart(lambda: _open_at(path, offset))
        left = length
        try:
            while left is None or left > 0:
                size = CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)
                chunk = await self._apart(lambda size=size: file.read(size))  # type: ignore[misc]  # mypy types no lambda with a default
                if not chunk:
                    return
                if left is not None:
                    left -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def size(self, key: str) -> int:
        path = self._path(_checked(key))
        return await self._apart(lambda: path.stat().st_size)

    async def delete(self, key: str) -> None:
        path = self._path(_checked(key))
        await self._apart(lambda: path.unlink(missing_ok=True))

    async def keys_before(self, moment: datetime) -> AsyncGenerator[str]:
        found = self._old_keys(moment.timestamp())
        while batch := await self._apart(lambda: _next_of(found)):
            for key in batch:
                yield key

    async def remove_unfinished(self, before: datetime) -> int:
        moment = before.timestamp()

        def remove() -> int:
            removed = 0
            for path in _children(self._unfinished):
                with contextlib.suppress(FileNotFoundError):  # finished this moment
                    if path.stat().st_mtime < moment:
                        path.unlink()
                        removed += 1
            return removed

        return await self._apart(remove)

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # within

    def _path(self, key: str) -> Path:
        return self._folder / key[4:6] / key

    def _create(self, path: Path) -> FileIO:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")

    def _commit(self, file: FileIO, unfinished: Path, path: Path) -> None:
        os.fsync(file.fileno())
        file.close()
        path.parent.mkdir(exist_ok=True, mode=0o700)
        unfinished.replace(path)
        for folder in (path.parent, self._folder):
            _sync(folder)

    def _old_keys(self, moment: float) -> Iterator[str]:
        for folder in _children(self._folder):
            if folder == self._unfinished or not folder.is_dir():
                continue
            for path in _children(folder):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    if KEY.match(path.name) and path.stat().st_mtime < moment:
                        yield path.name

    async def _apart(self, work: Callable[[], _Result]) -> _Result:
        """In a thread, and to its end: a file must not be closed under somebody who still writes it."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if not future.exception() and isinstance(opened := future.result(), FileIO):
                opened.close()
            raise
        except FileNotFoundError as exc:
            raise NoSuchObject from exc
        except OSError as exc:
            logger.error("storage folder fails", error=type(exc).__name__, errno=exc.errno)
            raise StorageUnavailable from exc


class _FileWriter:
    """Gathers what comes in small pieces: each write costs the way to a thread."""

    def __init__(self, file: FileIO, apart: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self.file = file
        self._apart = apart
        self._pending = bytearray()

    async def write(self, chunk: bytes) -> None:
        self._pending += chunk
        if len(self._pending) >= CHUNK_BYTES:
            await self.flush()

    async def flush(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, bytearray()
            await self._apart(lambda: _write_all(self.file, pending))


def _checked(key: str) -> str:
    if not KEY.match(key):
        raise ValueError("not a key of the storage")
    return key


def _write_all(file: FileIO, data: bytearray) -> None:
    """The operating system may take less at once."""
    with memoryview(data) as rest:
        done = 0
        while done < len(data):
            done += file.write(rest[done:]) or 0


def _open_at(path: Path, offset: int) -> FileIO:
    file = FileIO(path)
    file.seek(offset)
    return file


def _discard(file: FileIO, *paths: Path) -> None:
    file.close()
    for path in paths:
        path.unlink(missing_ok=True)


def _children(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries)
    except FileNotFoundError:
        return


def _next_of(keys: Iterator[str]) -> list[str]:
    return list(islice(keys, _LISTED_AT_ONCE))


def _sync(folder: Path) -> None:
    """Without it a power cut may lose the name of a file whose content is safe."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
