"""What an account prefers, in the database and in every process that knows a key of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from shared import keyspace
from shared.auth.api_keys import digest as digest_of
from shared.auth.key_entry import KeyEntries, KeyEntry, Mark
from shared.auth.lookup import KeyLookup
from shared.auth.preference import PreferenceNotAnnounced, prefer
from shared.db.repositories import preferences
from shared.db.repositories.principals import account_digest
from shared.domain.job import FallbackOn
from shared.domain.principal import Preference, Principal
from shared.errors import AuthenticationFailed
from shared.ids import AccountId
from tests.fakes.redis_server import RedisServer
from tests.integration.key_stores import ACME, PEPPER, SETTINGS, Stores, stores_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINI = Preference("gpt-4o-mini", ("claude-haiku-4-5",), frozenset({FallbackOn.CONTEXT_LENGTH}))
HOUSE = Preference("house")


@pytest.fixture
async def stores(redis_url: str, database_url: str) -> AsyncIterator[Stores]:
    async for each in stores_of(redis_url, database_url):
        yield each


@pytest.fixture
async def fragile(private_redis: RedisServer, sqlite_url: str) -> AsyncIterator[Stores]:
    async for each in stores_of(private_redis.url, sqlite_url):
        yield each


async def set_to(stores: Stores, preference: Preference | None, account: AccountId = ACME) -> None:
    await prefer(stores.database, stores.link, account, preference, clock=stores.clock, settings=SETTINGS)


async def version_of(redis: Redis) -> int:
    return int(await redis.get(keyspace.KEY_VERSION) or 0)


async def preferred(process: KeyLookup, token: str) -> Preference | None:
    return (await process.resolve(token)).preference


async def test_a_preference_is_stored_replaced_and_removed(stores: Stores) -> None:
    await stores.a_key()

    async def read() -> preferences.StoredPreference | None:
        async with stores.database.connect() as connection:
            return await preferences.find(connection, ACME)

    async def save(preference: Preference) -> None:
        async with stores.database.begin() as connection:
            await preferences.save(connection, ACME, preference, at=NOON)

    assert await read() is None
    await save(MINI)
    assert await read() == preferences.StoredPreference(MINI, NOON)
    await save(HOUSE)
    assert await read() == preferences.StoredPreference(HOUSE, NOON)
    for _ in range(2):
        async with stores.database.begin() as connection:
            await preferences.remove(connection, ACME)
        assert await read() is None


async def test_it_is_part_of_the_principal_by_way_of_the_database_and_of_redis(stores: Stores) -> None:
    token, principal = await stores.a_key()
    await set_to(stores, MINI)

    from_database = stores.a_process()
    assert await preferred(from_database, token) == MINI
    from_redis = stores.a_process()
    assert await from_redis.resolve(token) == Principal(ACME, principal.api_key, MINI)


@pytest.mark.parametrize("by", ["message", "version"])
async def test_a_change_reaches_processes_that_know_the_key(stores: Stores, by: str) -> None:
    token, principal = await stores.a_key()
    other, _ = await stores.a_key()
    processes = [stores.a_process(), stores.a_process()]
    for process in processes:
        process.on_version(await version_of(stores.redis))
        assert await preferred(process, token) is None
        assert await preferred(process, other) is None

    for wanted in (MINI, HOUSE, None):
        await set_to(stores, wanted)
        for process in processes:
            if by == "message":
                process.on_revoked(principal.api_key)
            else:
                process.on_version(await version_of(stores.redis))
            assert await preferred(process, token) == wanted
            if by == "version":
                assert await preferred(process, other) == wanted


async def test_every_key_of_the_account_is_announced_and_no_other(stores: Stores) -> None:
    ids = {(await stores.a_key())[1].api_key for _ in range(3)}
    subscription = await stores.closing.enter_async_context(stores.redis.pubsub())
    await subscription.subscribe(keyspace.REVOKED_CHANNEL)

    await set_to(stores, MINI)
    await stores.redis.publish(keyspace.REVOKED_CHANNEL, "end")

    heard: list[str] = []
    async with asyncio.timeout(5):
        while "end" not in heard:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5)
            if message is not None:
                heard.append(message["data"].decode())
    assert set(heard) == ids | {account_digest(ACME), "end"}


async def test_a_row_read_before_the_change_and_stored_after_it_is_not_kept(stores: Stores) -> None:
    token, principal = await stores.a_key()
    digest = digest_of(PEPPER, token)
    entries = KeyEntries(stores.link, ttl_seconds=SETTINGS.redis_cache_seconds)
    found, version = await entries.read(digest)
    assert found is Mark.MISSING

    await set_to(stores, MINI)
    stored = await entries.store(digest, KeyEntry(principal, None), version=version)

    assert stored
    assert await preferred(stores.a_process(), token) == MINI


async def test_of_changes_at_once_every_process_knows_the_last_row(stores: Stores) -> None:
    token, _ = await stores.a_key()
    process = stores.a_process()
    wishes = [Preference(f"model-{n}") for n in range(8)]

    await asyncio.gather(*(set_to(stores, wish) for wish in wishes))
    process.on_version(await version_of(stores.redis))

    async with stores.database.connect() as connection:
        row = await preferences.find(connection, ACME)
    assert row is not None
    assert await preferred(process, token) == row.preference


async def test_a_process_that_looks_half_way_through_a_change_looks_again(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = await stores.a_key()
    process = stores.a_process()
    await preferred(process, token)
    store_all = KeyEntries.store_all

    async def after_a_look(entries: KeyEntries, found: dict[str, KeyEntry], *, version: int) -> None:
        process.on_version(await version_of(stores.redis))
        assert await preferred(process, token) is None
        await store_all(entries, found, version=version)

    monkeypatch.setattr(KeyEntries, "store_all", after_a_look)
    await set_to(stores, MINI)
    process.on_version(await version_of(stores.redis))

    assert await preferred(process, token) == MINI


async def test_a_change_does_not_bring_a_revoked_key_back(stores: Stores) -> None:
    token, principal = await stores.a_key()
    await stores.revoke(principal.api_key)

    await set_to(stores, MINI)

    with pytest.raises(AuthenticationFailed):
        await stores.a_process().resolve(token)


async def test_words_of_a_later_release_are_left_out(stores: Stores) -> None:
    token, principal = await stores.a_key()
    await set_to(stores, MINI)
    key = stores.redis_key(token)
    entry = (await stores.redis.get(key)).decode()
    await stores.redis.set(key, entry.replace('"context_length"', '"full_moon"'), keepttl=True)

    assert await preferred(stores.a_process(), token) == Preference(MINI.model, MINI.fallback_models)
    assert principal.api_key in entry


async def test_without_redis_it_is_stored_and_said_so(fragile: Stores, private_redis: RedisServer) -> None:
    token, _ = await fragile.a_key()
    process = fragile.a_process()
    assert await preferred(process, token) is None
    private_redis.kill9()

    with pytest.raises(PreferenceNotAnnounced):
        await set_to(fragile, MINI)

    async with fragile.database.connect() as connection:
        assert await preferences.find(connection, ACME) is not None
    fragile.clock.advance(SETTINGS.key_cache_seconds)
    assert await preferred(process, token) == MINI
