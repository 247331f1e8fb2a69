"""Files as others write and read them: the object and its row, and lines of any kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import ManualClock
from shared.db.engine import writing
from shared.db.repositories import accounts, files
from shared.db.repositories.files import Held
from shared.files import Line, StorageQuotaExceeded, keep, read_lines, write_file
from shared.ids import AccountId, FileId
from shared.settings import StorageSettings
from shared.storage.objects import CHUNK_BYTES, NoSuchObject, Storage, new_key
from tests.integration.storage.test_objects import get, keys, put

ACME, OTHER = AccountId("acme"), AccountId("other")
CLOCK = ManualClock()


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def a_file(database: AsyncEngine, storage: Storage, *chunks: bytes) -> files.File:
    return await write_file(
        database,
        storage,
        account=ACME,
        filename="out.jsonl",
        purpose="batch_output",
        chunks=pieces(*chunks),
        created_by="batch",
        expires_at=None,
        clock=CLOCK,
    )


async def test_a_file_that_was_written_is_found_with_its_content(
    database: AsyncEngine, storage: Storage
) -> None:
    written = await a_file(database, storage, b"one\n", b"two\n")

    async with database.connect() as connection:
        found = await files.find(connection, ACME, written.id, now=CLOCK.now())
        of_other = await files.find(connection, OTHER, written.id, now=CLOCK.now())
    assert found == written
    assert of_other is None
    assert written.size_bytes == 8
    assert await get(storage, written.storage_key) == b"one\ntwo\n"


async def test_a_file_whose_chunks_fail_leaves_neither_object_nor_row(
    database: AsyncEngine, storage: Storage
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"one\n"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await write_file(
            database,
            storage,
            account=ACME,
            filename="out.jsonl",
            purpose="batch_output",
            chunks=broken(),
            created_by="batch",
            expires_at=None,
        )

    async with database.connect() as connection:
        assert await files.held(connection, ACME) == Held(0, 0)
    assert await keys(storage) == set()


async def test_what_is_too_much_for_its_account_goes_again(database: AsyncEngine, storage: Storage) -> None:
    async with writing(database) as connection:
        await accounts.ensure(connection, ACME, name="Acme", at=CLOCK.now())
    first = await a_file(database, storage, b"12345")
    second = files.File(
        **{
            name: getattr(first, name)
            for name in ("account_id", "created_by", "filename", "purpose", "size_bytes", "created_at")
        },
        id=FileId("file-second"),
        storage_key=await put(storage, b"12345"),
        expires_at=None,
    )

    for quota in (StorageSettings(account_max_bytes=9), StorageSettings(account_max_files=1)):
        with pytest.raises(StorageQuotaExceeded):
            await keep(database, storage, second, quota=quota)

    assert await keys(storage) == {first.storage_key}
    await keep(database, storage, second, quota=StorageSettings(account_max_bytes=10, account_max_files=2))
    async with database.connect() as connection:
        assert await files.held(connection, ACME) == Held(2, 10)


async def lines_of(storage: Storage, content: bytes, *, offset: int = 0, longest: int = 1_000) -> list[Line]:
    key = await put(storage, content)
    async with aclosing(read_lines(storage, key, offset, max_line_bytes=longest)) as lines:
        return [line async for line in lines]


async def test_lines_end_in_any_way_and_a_byte_order_mark_is_none_of_them(storage: Storage) -> None:
    content = b'\xef\xbb\xbf{"a":1}\r\n\n{"b":2}\n\r\nlast'

    lines = await lines_of(storage, content)

    assert [line.data for line in lines] == [b'{"a":1}', b"", b'{"b":2}', b"", b"last"]
    for line in lines:
        assert content[line.offset : line.offset + line.length] == line.data


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
async def test_a_file_of_nothing_has_no_line_that_says_something(storage: Storage, content: bytes) -> None:
    assert [line.data for line in await lines_of(storage, content) if line.data] == []


async def test_lines_are_read_on_from_where_any_of_them_starts(storage: Storage) -> None:
    content = b"\xef\xbb\xbffirst\r\nsecond\nthird"
    lines = await lines_of(storage, content)

    for number, line in enumerate(lines):
        assert await lines_of(storage, content, offset=line.offset) == lines[number:]


async def test_a_line_that_is_too_long_is_told_and_not_held(storage: Storage) -> None:
    long = 3 * CHUNK_BYTES
    content = b"a" * 10 + b"\n" + b"b" * 11 + b"\r\n" + b"c" * long + b"\n" + b"d" * 10 + b"\r\n" + b"e" * 12

    lines = await lines_of(storage, content, longest=10)

    assert [line.data for line in lines] == [b"a" * 10, None, None, b"d" * 10, None]
    assert [line.length for line in lines if line.data is None][-1] == 12
    assert lines[2].length == long
    assert content[lines[3].offset : lines[3].offset + lines[3].length] == b"d" * 10


async def test_lines_over_many_chunks_are_whole(storage: Storage) -> None:
    expected = [b"x" * length for length in range(0, 3_000, 7)] * 3

    lines = await lines_of(storage, b"\r\n".join(expected), longest=3_000)

    assert [line.data for line in lines] == expected


async def test_lines_of_nothing_raise(storage: Storage) -> None:
    with pytest.raises(NoSuchObject):
        await anext(read_lines(storage, new_key()))
