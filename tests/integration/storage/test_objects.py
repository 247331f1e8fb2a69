"""What is promised of every storage, kept by a folder and by an S3-compatible store alike."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from shared.clock import SystemClock
from shared.sigv4 import AccessKey
from shared.storage.folder import FolderStorage
from shared.storage.objects import CHUNK_BYTES, NoSuchObject, Storage, StorageUnavailable, new_key
from shared.storage.s3 import PART_BYTES, S3Storage
from tests.fakes.s3_server import BUCKET, REGION, S3Server

LATER = timedelta(minutes=5)


class Broken(Exception): ...


async def write_and_break(storage: Storage, key: str, content: bytes) -> None:
    async with storage.open_writer(key) as writer:
        await writer.write(content)
        raise Broken


async def put(storage: Storage, content: bytes, *, piece: int = 100_000) -> str:
    key = new_key()
    async with storage.open_writer(key) as writer:
        for start in range(0, len(content), piece):
            await writer.write(content[start : start + piece])
    return key


async def get(storage: Storage, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
    chunks = []
    async with aclosing(storage.read(key, offset=offset, length=length)) as reading:
        async for chunk in reading:
            assert len(chunk) <= CHUNK_BYTES
            chunks.append(chunk)
    return b"".join(chunks)


async def keys(storage: Storage) -> set[str]:
    return {key async for key in storage.keys_before(SystemClock().now() + LATER)}


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 12_345])
async def test_what_was_written_is_read(storage: Storage, size: int) -> None:
    content = os.urandom(size)

    key = await put(storage, content)

    assert await storage.size(key) == size
    assert await get(storage, key) == content


async def test_a_part_of_it_is_read(storage: Storage) -> None:
    content = os.urandom(PART_BYTES + CHUNK_BYTES + 7)
    key = await put(storage, content)

    for offset, length in ((0, 10), (5, None), (PART_BYTES - 3, 6), (0, 0), (CHUNK_BYTES, CHUNK_BYTES + 1)):
        end = None if length is None else offset + length
        assert await get(storage, key, offset=offset, length=length) == content[offset:end]
    assert await get(storage, key, offset=len(content) - 1, length=100) == content[-1:]
    assert await get(storage, key, offset=len(content)) == b""


async def test_a_reader_may_stop_on_the_way(storage: Storage) -> None:
    content = os.urandom(4 * CHUNK_BYTES)
    key = await put(storage, content)

    async with aclosing(storage.read(key)) as reading:
        first = await anext(reading)

    assert content.startswith(first)


@pytest.mark.parametrize("size", [0, 1_000, 2 * PART_BYTES + 1])
async def test_a_writer_that_fails_leaves_nothing(storage: Storage, size: int) -> None:
    key = new_key()

    with pytest.raises(Broken):
        await write_and_break(storage, key, os.urandom(size))

    await nothing_is_left(storage, key)


async def test_a_writer_that_is_cancelled_leaves_nothing(storage: Storage) -> None:
    key, written = new_key(), asyncio.Event()

    async def write() -> None:
        async with storage.open_writer(key) as writer:
            for _ in range(3):
                await writer.write(os.urandom(PART_BYTES))
            written.set()
            while True:
                await writer.write(os.urandom(PART_BYTES))

    task = asyncio.create_task(write())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await nothing_is_left(storage, key)


async def nothing_is_left(storage: Storage, key: str) -> None:
    with pytest.raises(NoSuchObject):
        await storage.size(key)
    assert await keys(storage) == set()
    assert await storage.remove_unfinished(SystemClock().now() + LATER) == 0


async def test_nothing_is_there_before_the_end(storage: Storage) -> None:
    key = new_key()

    async with storage.open_writer(key) as writer:
        await writer.write(os.urandom(2 * PART_BYTES + 1))
        with pytest.raises(NoSuchObject):
            await storage.size(key)
        assert await keys(storage) == set()

    assert await keys(storage) == {key}


async def test_what_a_process_that_died_had_begun_is_removed(storage: Storage) -> None:
    key = new_key()
    open_one = storage.open_writer(key)
    writer = await open_one.__aenter__()
    await writer.write(os.urandom(PART_BYTES + 1))

    assert await storage.remove_unfinished(SystemClock().now() - LATER) == 0
    assert await storage.remove_unfinished(SystemClock().now() + LATER) == 1
    assert await storage.remove_unfinished(SystemClock().now() + LATER) == 0
    # And one that was only slow hears of it.
    with pytest.raises(StorageUnavailable):
        await open_one.__aexit__(None, None, None)
    await nothing_is_left(storage, key)


async def test_what_is_deleted_is_not_there_and_may_be_deleted_again(storage: Storage) -> None:
    key, other = await put(storage, b"one"), await put(storage, b"two")

    await storage.delete(key)
    await storage.delete(key)

    with pytest.raises(NoSuchObject):
        await get(storage, key)
    with pytest.raises(NoSuchObject):
        await storage.size(key)
    assert await get(storage, other) == b"two"


async def test_old_objects_are_listed_and_new_ones_are_not(storage: Storage) -> None:
    written = {await put(storage, b"x") for _ in range(5)}

    assert await keys(storage) == written
    assert [key async for key in storage.keys_before(SystemClock().now() - LATER)] == []


async def test_only_keys_of_ours_are_taken(storage: Storage) -> None:
    for key in ("../../etc/passwd", "obj-", "a/b", ""):
        with pytest.raises(ValueError, match="key"):
            await storage.delete(key)
        with pytest.raises(ValueError, match="key"):
            await storage.size(key)


async def test_memory_stays_flat_whatever_the_size(storage: Storage) -> None:
    block = os.urandom(1024 * 1024)
    await put(storage, block * 17)
    process = psutil.Process()
    before = process.memory_info().rss
    key, highest = new_key(), 0

    async with storage.open_writer(key) as writer:
        for _ in range(200):
            await writer.write(block)
            highest = max(highest, process.memory_info().rss)
    size = 0
    async with aclosing(storage.read(key)) as reading:
        async for chunk in reading:
            size += len(chunk)
            highest = max(highest, process.memory_info().rss)

    assert size == 200 * len(block)
    print(f"+{(highest - before) >> 20} MB")
    assert highest - before < 64 * 1024 * 1024


async def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = FolderStorage(tmp_path / "file" / "below")

    with pytest.raises(StorageUnavailable):
        await put(storage, b"x")
    await storage.aclose()


async def test_objects_in_a_folder_are_for_its_owner_alone(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "files")
    key = await put(storage, b"private")

    (path,) = (tmp_path / "files").rglob(key)
    assert path.stat().st_mode & 0o077 == 0
    await storage.aclose()


async def test_a_store_that_refuses_the_key_is_told(s3_server: S3Server) -> None:
    wrong = S3Storage(
        endpoint=s3_server.endpoint, bucket=BUCKET, region=REGION, key=AccessKey("AKIDOFTHETESTS", "wrong")
    )

    with pytest.raises(StorageUnavailable):
        await put(wrong, b"x")
    with pytest.raises(StorageUnavailable):
        await get(wrong, new_key())
    await wrong.aclose()


async def test_a_store_that_is_away_is_told() -> None:
    nobody = S3Storage(endpoint="http://127.0.0.1:9", bucket=BUCKET, region=REGION, key=AccessKey("a", "b"))

    with pytest.raises(StorageUnavailable):
        await put(nobody, b"x")
    with pytest.raises(StorageUnavailable):
        await get(nobody, new_key())
    await nobody.aclose()
