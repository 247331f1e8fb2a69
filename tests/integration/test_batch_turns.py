"""Whose batches are gone on with next, and whose lines a provider is given: accounts take turns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches.listing import Listing
from scheduler.batches.means import Means
from scheduler.batches.room import Room
from scheduler.duties.run_batches import batch_runner
from shared.clock import ManualClock, SystemClock
from shared.db.engine import create_engine, writing
from shared.db.repositories import accounts, batches
from shared.db.repositories.batches import NewBatch
from shared.domain.batch import BatchForm, BatchStatus
from shared.ids import AccountId, ApiKeyId, BatchId, new_batch_id
from shared.providers.registry import Registry
from shared.queue.redis_link import RedisLink
from shared.settings import BatchSettings, Settings
from shared.storage.folder import FolderStorage
from tests.fakes.eventually import eventually
from tests.integration.queue.support import PROVIDER, open_link
from tests.integration.test_batches import a_batch, a_line, found

ACME, OTHER, THIRD = AccountId("acme"), AccountId("other"), AccountId("third")
SETTINGS = Settings().model_copy(update={"batches": BatchSettings(look_seconds=0.05)})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    async with writing(engine) as connection:
        for account in (ACME, OTHER, THIRD):
            await accounts.ensure(connection, account, name=account, at=SystemClock().now())
    yield engine
    await engine.dispose()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[FolderStorage]:
    folder = FolderStorage(tmp_path / "files")
    yield folder
    await folder.aclose()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as opened:
        yield opened


async def open_batches(database: AsyncEngine, account: AccountId, count: int) -> list[BatchId]:
    """Of files that nobody has; they have no turn before they are looked at."""
    now = SystemClock().now()
    ids = [new_batch_id() for _ in range(count)]
    async with writing(database) as connection:
        for batch_id in ids:
            await batches.create(
                connection,
                NewBatch(
                    id=batch_id,
                    account_id=account,
                    api_key_id=ApiKeyId("key_a"),
                    user_id=None,
                    request_id="req_a",
                    form=BatchForm.OPENAI,
                    endpoint="/v1/chat/completions",
                    input_file_id="file-none",
                    notes=None,
                    options={},
                    webhook_url=None,
                    fingerprint="",
                    idempotency=None,
                    created_at=now,
                    expires_at=now.replace(year=now.year + 1),
                ),
            )
    return ids


async def test_a_batch_has_its_turn_however_many_another_account_has(
    database: AsyncEngine, storage: FolderStorage, link: RedisLink
) -> None:
    for batch_id in await open_batches(database, ACME, 205):
        async with writing(database) as connection:
            batch = await batches.find(connection, ACME, batch_id)
            assert batch is not None
            now = SystemClock().now()
            assert await batches.change(connection, batch, BatchStatus.IN_PROGRESS, at=now)
    batch = await a_batch(database, storage, a_line("a"), at=SystemClock().now(), account=OTHER)
    # It never looks who serves what, so that what is in progress stays so.
    means = Means(link, SETTINGS, Registry.from_settings(SETTINGS))
    running = asyncio.create_task(batch_runner(link, database, storage, means, SETTINGS).run())

    async def has_begun() -> bool:
        return (await found(database, batch.id, OTHER)).status is BatchStatus.IN_PROGRESS

    async with AsyncExitStack() as ending:
        ending.callback(running.cancel)
        await eventually(has_begun, "the turn of the other account", within=10.0)
    with suppress(asyncio.CancelledError):
        await running


async def test_pages_have_some_of_each_account_and_all_in_the_end(database: AsyncEngine) -> None:
    of_acme = sorted(await open_batches(database, ACME, 9))
    of_other = await open_batches(database, OTHER, 1)
    listing = Listing(database, most=4)
    seen: set[BatchId] = set()

    pages = []
    for _ in range(5):
        pages.append(await listing.page())
        assert await listing.page() == pages[-1]
        listing.turn()
        seen |= pages[-1].keys()

    assert [Counter(page.values()) for page in pages] == [{ACME: 2, OTHER: 1}] * 5
    assert pages[0].keys() == {*of_acme[:2], *of_other}
    assert seen == {*of_acme, *of_other}


async def test_more_accounts_than_a_page_has_come_on_the_next(database: AsyncEngine) -> None:
    for account in (ACME, OTHER, THIRD):
        await open_batches(database, account, 5)
    listing = Listing(database, most=2)
    seen: set[BatchId] = set()

    pages = []
    for _ in range(10):
        pages.append(await listing.page())
        listing.turn()
        seen |= pages[-1].keys()

    assert [set(page.values()) for page in pages] == [{ACME, OTHER}, {THIRD}] * 5
    assert all(len(page) <= 2 for page in pages)
    assert len(seen) == 15


async def test_an_account_alone_has_all_the_room_and_shares_what_becomes_free(link: RedisLink) -> None:
    clock = ManualClock()
    room = Room(link, most=4, shards=1, monotonic=clock.monotonic)

    async def take(account: AccountId, times: int) -> int:
        return sum([await room.take(PROVIDER, account) for _ in range(times)])

    assert await take(ACME, 9) == 4
    assert await take(OTHER, 9) == 0

    clock.advance(1.0)
    assert (await take(ACME, 9), await take(OTHER, 1), await take(ACME, 9)) == (2, 1, 1)

    # Whoever has not asked for a while is not waited for.
    clock.advance(3.0)
    assert await take(ACME, 9) == 4


async def test_of_one_place_those_have_it_first_that_wait_longest(link: RedisLink) -> None:
    clock = ManualClock()
    room = Room(link, most=1, shards=1, monotonic=clock.monotonic)
    had: list[AccountId] = []

    for _ in range(12):
        asking = (ACME, ACME, ACME, OTHER, THIRD)
        had += [account for account in asking if await room.take(PROVIDER, account)]
        clock.advance(0.5)

    assert len(had) == 12
    assert min(Counter(had).values()) >= 3
    assert set(had) == {ACME, OTHER, THIRD}
