"""What every kind of storage keeps true."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, Protocol

from shared.errors import Overloaded

CHUNK_BYTES: Final = 256 * 1024
KEY: Final = re.compile(r"obj-[0-9a-f]{32}\Z")


class NoSuchObject(Exception):
    """Nothing is stored under this key."""


class StorageUnavailable(Overloaded):
    """The folder or the store cannot be reached, is full, or refuses us."""

    code = "storage_unavailable"

    def __init__(self) -> None:
        super().__init__("The storage of files cannot be used at the moment.", retry_after_seconds=1)


def new_key() -> str:
    """Random: nothing that a caller wrote ever becomes part of a path."""
    return f"obj-{os.urandom(16).hex()}"


class Writer(Protocol):
    async def write(self, chunk: bytes) -> None: ...


class Storage(Protocol):
    """Everything raises StorageUnavailable where the storage fails."""

    def open_writer(self, key: str) -> AbstractAsyncContextManager[Writer]:
        """Once the block has ended the object is durable. If it raises, nothing is stored.

        `key` is a new one.
        """
        ...

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        """Chunks of at most CHUNK_BYTES, up to the end or `length` bytes; to be closed by the reader.

        Raises NoSuchObject before the first chunk.
        """
        ...

    async def size(self, key: str) -> int:
        """Bytes. Raises NoSuchObject."""
        ...

    async def delete(self, key: str) -> None:
        """Once more does no harm."""
        ...

    def keys_before(self, moment: datetime) -> AsyncGenerator[str]:
        """Keys of objects that were written before `moment`, in no order. Only keys that are like ours."""
        ...

    async def remove_unfinished(self, before: datetime) -> int:
        """What nobody finished writing that was begun before; how many."""
        ...

    async def aclose(self) -> None: ...
