"""Expired files go with their content, and content that is no file's goes once it is old."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.duties import expire_files as duty
from scheduler.duties.expire_files import ORPHAN_AGE, expire_files
from shared.clock import ManualClock, SystemClock
from shared.db.engine import create_engine
from shared.db.repositories import files
from shared.files import write_file
from shared.sigv4 import AccessKey
from shared.storage.objects import Storage, new_key
from shared.storage.s3 import PART_BYTES, S3Storage
from tests.integration.storage.test_files import ACME, pieces
from tests.integration.storage.test_objects import keys, put


async def a_file(database: AsyncEngine, storage: Storage, expires_at: datetime | None) -> files.File:
    return await write_file(
        database,
        storage,
        account=ACME,
        filename="a",
        purpose="batch",
        chunks=pieces(b"x"),
        created_by="test",
        expires_at=expires_at,
    )


async def test_what_expired_goes_and_what_did_not_stays(
    database: AsyncEngine, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "BATCH", 2)
    now = SystemClock().now()
    for_ever, later = await a_file(database, storage, None), await a_file(database, storage, now + ORPHAN_AGE)
    for _ in range(3):
        await a_file(database, storage, now)

    removed = await expire_files(database, storage, clock=SystemClock())

    assert removed == {"files": 3, "orphans": 0, "unfinished": 0}
    assert await keys(storage) == {for_ever.storage_key, later.storage_key}
    async with database.connect() as connection:
        left = await files.page(connection, ACME, now=now, limit=10, oldest_first=True)
    assert [file.id for file in left] == [for_ever.id, later.id]


async def test_a_file_that_expired_is_not_there_before_it_was_removed(
    database: AsyncEngine, storage: Storage
) -> None:
    now = SystemClock().now()
    expired = await a_file(database, storage, now - timedelta(seconds=1))

    async with database.connect() as connection:
        assert await files.find(connection, ACME, expired.id, now=now) is None
        assert await files.page(connection, ACME, now=now, limit=10) == []
        assert await files.remove(connection, ACME, expired.id, now=now) is None


async def test_content_without_a_row_goes_once_it_is_a_day_old(
    database: AsyncEngine, storage: Storage
) -> None:
    kept = await a_file(database, storage, None)
    orphan = await put(storage, b"nobody's")
    writer = storage.open_writer(new_key())
    await (await writer.__aenter__()).write(os.urandom(PART_BYTES + 1))
    young, old = ManualClock(SystemClock().now()), ManualClock(SystemClock().now() + ORPHAN_AGE)
    old.advance(60)

    at_once = await expire_files(database, storage, clock=young)
    assert at_once == {"files": 0, "orphans": 0, "unfinished": 0}
    assert await keys(storage) == {kept.storage_key, orphan}

    assert await expire_files(database, storage, clock=old) == {"files": 0, "orphans": 1, "unfinished": 1}
    assert await keys(storage) == {kept.storage_key}
    await writer.__aexit__(ConnectionError, ConnectionError(), None)


async def test_content_stays_where_the_database_cannot_be_asked(storage: Storage) -> None:
    key = await put(storage, b"somebody's")
    nowhere = create_engine("sqlite:////nowhere/at/all.db")
    old = ManualClock(SystemClock().now() + 2 * ORPHAN_AGE)

    removed = await expire_files(nowhere, storage, clock=old)

    assert removed == {"files": 0, "orphans": 0, "unfinished": 0}
    assert await keys(storage) == {key}
    await nowhere.dispose()


async def test_a_store_that_is_away_is_asked_again_the_next_time(database: AsyncEngine) -> None:
    away = S3Storage(endpoint="http://127.0.0.1:9", bucket="b", region="r", key=AccessKey("a", "b"))

    removed = await expire_files(database, away, clock=SystemClock())

    assert removed == {"files": 0, "orphans": 0, "unfinished": 0}
    await away.aclose()
