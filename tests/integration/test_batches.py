"""Batches in both databases: pages and their cursor, claims, ends that stay, files made once, retention."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches.assemble import Assembler
from scheduler.batches.check_lines import Checker
from scheduler.duties.remove_old import remove_old
from shared.clock import ManualClock
from shared.db.engine import create_engine, writing
from shared.db.repositories import accounts, batch_lines, batches, files
from shared.db.repositories.batch_lines import LineEnd
from shared.db.repositories.batches import Batch, NewBatch
from shared.domain.batch import BatchForm, BatchStatus, LineState
from shared.files import write_file
from shared.ids import AccountId, ApiKeyId, BatchId, new_batch_id
from shared.settings import BatchSettings, Settings
from shared.storage.folder import FolderStorage

ACME = AccountId("acme")
SETTINGS = Settings()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(database_url: str, clock: ManualClock) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    async with writing(engine) as connection:
        await accounts.ensure(connection, ACME, name="Acme", at=clock.now())
    yield engine
    await engine.dispose()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[FolderStorage]:
    folder = FolderStorage(tmp_path / "files")
    yield folder
    await folder.aclose()


def a_line(custom_id: str) -> bytes:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


async def a_batch(
    database: AsyncEngine,
    storage: FolderStorage,
    content: bytes,
    *,
    at: datetime,
    account: AccountId = ACME,
    form: BatchForm = BatchForm.OPENAI,
    **options: str | int,
) -> Batch:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    file = await write_file(
        database,
        storage,
        account=account,
        filename="in.jsonl",
        purpose="batch",
        chunks=chunks(),
        created_by="key_a",
        expires_at=None,
    )
    new = NewBatch(
        id=new_batch_id(),
        account_id=account,
        api_key_id=ApiKeyId("key_a"),
        user_id=None,
        request_id="req_a",
        form=form,
        endpoint="/v1/chat/completions",
        input_file_id=file.id,
        notes=None,
        options=dict(options),
        webhook_url=None,
        fingerprint="of-the-body",
        idempotency=None,
        created_at=at,
        expires_at=at + timedelta(days=1),
    )
    async with writing(database) as connection:
        await batches.create(connection, new)
    return await found(database, new.id, account)


async def found(database: AsyncEngine, batch: BatchId, account: AccountId = ACME) -> Batch:
    async with database.connect() as connection:
        row = await batches.find(connection, account, batch)
    assert row is not None
    return row


async def ended_as(
    database: AsyncEngine, batch: BatchId, ordinal: int, state: LineState, at: datetime
) -> None:
    async with writing(database) as connection:
        status, body = (200, b'{"id":"x"}') if state is LineState.SUCCEEDED else (None, None)
        await batch_lines.end(connection, [LineEnd(batch, ordinal, state, status, body, at=at)])


async def test_two_who_check_the_same_input_add_each_line_once(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    content = b"".join(a_line(f"n{n}") for n in range(1_200))
    batch = await a_batch(database, storage, content, at=clock.now())
    checker = Checker(storage, database, SETTINGS, clock)

    await asyncio.gather(checker.check(batch), checker.check(batch))
    again = await found(database, batch.id)
    if again.status is BatchStatus.VALIDATING:
        await checker.check(again)
        again = await found(database, batch.id)

    async with database.connect() as connection:
        counts = await batch_lines.counts(connection, batch.id)
    assert (again.status, again.total, again.model) == (BatchStatus.IN_PROGRESS, 1_200, "gpt-4o-mini")
    assert counts[LineState.PENDING] == 1_200


class _Died(Exception):
    pass


class DiesBehindAPage(Checker):
    async def _keep(self, batch: Batch, page: Any) -> Batch | None:
        await super()._keep(batch, page)
        raise _Died


async def test_checking_goes_on_where_it_was_left_off(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    content = b"\r\n".join(a_line(f"n{n % 700}").strip() for n in range(900))
    batch = await a_batch(database, storage, content, at=clock.now())
    with pytest.raises(_Died):
        await DiesBehindAPage(storage, database, SETTINGS, clock).check(batch)

    left_off = await found(database, batch.id)
    assert (left_off.status, left_off.checked_lines) == (BatchStatus.VALIDATING, 500)
    await Checker(storage, database, SETTINGS, clock).check(left_off)

    row = await found(database, batch.id)
    async with database.connect() as connection:
        counts = await batch_lines.counts(connection, batch.id)
    assert (row.total, row.checked_lines) == (900, 900)
    assert (counts[LineState.PENDING], counts[LineState.FAILED]) == (700, 200)


async def test_a_line_is_claimed_by_one_and_ends_once(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    batch = await a_batch(database, storage, b"".join(map(a_line, "abcd")), at=clock.now())
    await Checker(storage, database, SETTINGS, clock).check(batch)

    async def claim() -> set[int]:
        async with writing(database) as connection:
            return await batch_lines.claim(connection, batch.id, [1, 2, 3, 4], at=clock.now())

    one, other = await asyncio.gather(claim(), claim())
    await ended_as(database, batch.id, 1, LineState.SUCCEEDED, clock.now())
    await ended_as(database, batch.id, 1, LineState.CANCELLED, clock.now())

    async with database.connect() as connection:
        (line,) = await batch_lines.ended(connection, batch.id, [1])
    assert (one | other, one & other) == ({1, 2, 3, 4}, set())
    assert (line.state, line.status_code) == (LineState.SUCCEEDED, 200)


async def test_results_become_files_once_whoever_else_does_it_too(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    batch = await a_batch(database, storage, b"".join(map(a_line, "abc")) + b"no\n", at=clock.now())
    await Checker(storage, database, SETTINGS, clock).check(batch)
    for ordinal, state in ((1, LineState.SUCCEEDED), (2, LineState.SUCCEEDED), (3, LineState.CANCELLED)):
        await ended_as(database, batch.id, ordinal, state, clock.now())
    async with writing(database) as connection:
        running = await found(database, batch.id)
        assert await batches.change(connection, running, BatchStatus.FINALIZING, at=clock.now())
    assembler = Assembler(storage, database, SETTINGS, clock)
    finalizing = await found(database, batch.id)

    await asyncio.gather(assembler.assemble(finalizing), assembler.assemble(finalizing))

    row = await found(database, batch.id)
    async with database.connect() as connection:
        made = await files.page(connection, ACME, now=clock.now(), limit=9, purpose="batch_output")
        counts = await batch_lines.counts(connection, batch.id)
    content = [json.loads(text) async for text in _lines(storage, made, row.error_file_id)]
    assert row.status is BatchStatus.COMPLETED
    assert {file.id for file in made} == {row.output_file_id, row.error_file_id}
    assert (row.completed, row.failed, row.cancelled, row.total) == (2, 1, 1, 4)
    assert sum(counts.values()) == 4
    assert [line["error"]["code"] for line in content] == ["batch_cancelled", "invalid_json_line"]


async def test_pages_go_both_ways_also_among_batches_of_one_moment(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    made = [await a_batch(database, storage, a_line("a"), at=clock.now()) for _ in range(5)]
    newest_first = sorted((one.id for one in made), reverse=True)
    place = clock.now(), newest_first[2]

    async def ids(**wanted: Any) -> list[str]:
        async with database.connect() as connection:
            return [one.id for one in await batches.page(connection, ACME, tuple(BatchForm), **wanted)]

    assert await ids(limit=9) == newest_first
    assert await ids(limit=9, after=place) == newest_first[3:]
    assert await ids(limit=9, before=place) == newest_first[:2]
    assert await ids(limit=1, before=place) == [newest_first[1]]
    async with database.connect() as connection:
        assert await batches.page(connection, ACME, [BatchForm.UNIFIED], limit=9) == []


async def test_what_was_asked_in_the_same_words_is_found_for_a_while_by_the_same_key(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    await a_batch(database, storage, a_line("a"), at=clock.now() - timedelta(seconds=9))
    newest = await a_batch(database, storage, a_line("a"), at=clock.now())

    async def like(seconds: int, *, key: str = "key_a", form: BatchForm = BatchForm.OPENAI) -> Batch | None:
        async with database.connect() as connection:
            since = clock.now() - timedelta(seconds=seconds)
            return await batches.find_like(connection, ACME, ApiKeyId(key), form, "of-the-body", since=since)

    assert await like(60) == newest
    assert await like(-1) is None
    assert await like(60, key="key_b") is None
    assert await like(60, form=BatchForm.UNIFIED) is None


async def test_one_that_was_cancelled_first_is_read_to_its_end_by_whoever_ends_it(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    content = b"".join(a_line(f"n{n}") for n in range(600))
    seen_before = await a_batch(
        database, storage, content, at=clock.now(), form=BatchForm.UNIFIED, requests=600
    )
    async with writing(database) as connection:
        assert await batches.change(connection, seen_before, BatchStatus.CANCELLING, at=clock.now())
    checker = Checker(storage, database, SETTINGS, clock)

    await checker.check(seen_before)
    unread = await found(database, seen_before.id)
    assert await checker.read_rest(unread)

    row = await found(database, seen_before.id)
    async with database.connect() as connection:
        counts = await batch_lines.counts(connection, row.id)
    assert (unread.total, row.total, row.status) == (0, 600, BatchStatus.CANCELLING)
    assert counts[LineState.PENDING] == 600
    assert not await checker.read_rest(row)


async def test_one_that_was_cancelled_ends_although_less_lines_are_allowed_by_now(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    content = b"".join(a_line(f"n{n}") for n in range(6))
    batch = await a_batch(database, storage, content, at=clock.now(), form=BatchForm.UNIFIED, requests=6)
    async with writing(database) as connection:
        assert await batches.change(connection, batch, BatchStatus.CANCELLING, at=clock.now())
    settings = SETTINGS.model_copy(update={"batches": BatchSettings(max_lines=5)})

    assert await Checker(storage, database, settings, clock).read_rest(await found(database, batch.id))

    row = await found(database, batch.id)
    assert (row.total, row.status) == (6, BatchStatus.CANCELLING)


async def test_a_status_changes_by_its_table_alone(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    batch = await a_batch(database, storage, a_line("a"), at=clock.now())
    async with writing(database) as connection:
        with pytest.raises(ValueError, match="cannot become"):
            await batches.change(connection, batch, BatchStatus.COMPLETED, at=clock.now())
        late = replace(batch, status=BatchStatus.IN_PROGRESS)
        assert not await batches.change(connection, late, BatchStatus.CANCELLING, at=clock.now())


async def test_old_batches_go_with_their_lines(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    old = clock.now() - timedelta(days=40)
    gone = await a_batch(database, storage, b"no\n", at=old)
    open_one = await a_batch(database, storage, a_line("a"), at=old)
    checker = Checker(storage, database, SETTINGS, clock)
    await checker.check(gone)
    await checker.check(open_one)

    removed = await remove_old(database, SETTINGS, clock=clock)

    assert removed["batches"] == 1
    assert (await found(database, open_one.id)).status is BatchStatus.IN_PROGRESS


async def _lines(storage: FolderStorage, made: list[files.File], file_id: str | None) -> AsyncIterator[bytes]:
    (file,) = (one for one in made if one.id == file_id)
    whole = b"".join([chunk async for chunk in storage.read(file.storage_key)])
    for line in whole.splitlines():
        yield line
