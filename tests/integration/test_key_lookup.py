"""Keys on real stores: what is accepted and refused while they come and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from loguru import logger
from redis.asyncio.client import PubSub
from sqlalchemy import event, select

from shared import keyspace
from shared.auth import lookup as lookup_module
from shared.auth.api_keys import digest as digest_of
from shared.auth.api_keys import mint
from shared.auth.key_entry import KeyEntries, KeyEntry
from shared.auth.lookup import KeyLookup
from shared.auth.revocation import RevocationNotAnnounced, revoke
from shared.clock import ManualClock
from shared.db import tables
from shared.db.engine import create_engine
from shared.db.repositories import api_keys, principals
from shared.db.repositories.principals import Holder
from shared.errors import AuthenticationFailed, NotFound, Overloaded
from shared.ids import AccountId, ApiKeyId
from shared.queue.redis_link import ServerLink
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.redis_server import RedisServer
from tests.integration.key_stores import ACME, PEPPER, SETTINGS, Stores, stores_of


@pytest.fixture
async def stores(redis_url: str, database_url: str) -> AsyncIterator[Stores]:
    async for each in stores_of(redis_url, database_url):
        yield each


@pytest.fixture
async def fragile(private_redis: RedisServer, postgres_url: str) -> AsyncIterator[Stores]:
    """Stores that the test stops: `private_redis` and `postgres_server`."""
    async for each in stores_of(private_redis.url, postgres_url):
        yield each


async def test_a_key_resolves_to_its_principal_and_is_then_at_hand(stores: Stores) -> None:
    token, principal = await stores.a_key()
    process = stores.a_process()
    assert process.cached(token) is None

    assert await process.resolve(token) == principal

    assert process.cached(token) == principal


async def test_a_key_is_at_hand_no_longer_than_it_is_trusted(stores: Stores) -> None:
    token, _ = await stores.a_key()
    process = stores.a_process()
    await process.resolve(token)

    stores.clock.advance(SETTINGS.key_cache_seconds)

    assert process.cached(token) is None
    assert await process.resolve(token) is not None


async def test_a_hundred_calls_at_once_ask_the_database_once(stores: Stores) -> None:
    token, principal = await stores.a_key()
    process = stores.a_process()
    asked = []
    event.listen(stores.database.sync_engine, "before_cursor_execute", lambda *a: asked.append(a[2]))

    answers = await asyncio.gather(*(process.resolve(token) for _ in range(100)))

    assert set(answers) == {principal}
    assert len([statement for statement in asked if "api_key" in statement]) == 1


async def test_a_caller_who_leaves_takes_the_answer_from_nobody(stores: Stores) -> None:
    token, principal = await stores.a_key()
    process = stores.a_process()

    leaver = asyncio.create_task(process.resolve(token))
    stayer = asyncio.create_task(process.resolve(token))
    await asyncio.sleep(0)
    leaver.cancel()

    assert await stayer == principal
    assert leaver.cancelled()


async def heard(subscription: PubSub) -> bytes:
    async with asyncio.timeout(5):
        while True:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5)
            if message is not None:
                data: bytes = message["data"]
                return data


async def test_a_revocation_reaches_two_processes_at_once(stores: Stores) -> None:
    token, principal = await stores.a_key()
    processes = [stores.a_process(), stores.a_process()]
    subscriptions = []
    for process in processes:
        await process.resolve(token)
        subscription = await stores.closing.enter_async_context(stores.redis.pubsub())
        await subscription.subscribe(keyspace.REVOKED_CHANNEL)
        subscriptions.append(subscription)

    await stores.revoke(principal.api_key)

    for process, subscription in zip(processes, subscriptions, strict=True):
        process.on_revoked(ApiKeyId((await heard(subscription)).decode()))
        assert process.cached(token) is None
        with pytest.raises(AuthenticationFailed):
            await process.resolve(token)


async def test_a_lost_message_is_made_up_for_by_the_version(stores: Stores) -> None:
    token, principal = await stores.a_key()
    bystander, _ = await stores.a_key()
    process = stores.a_process()
    process.on_version(0)
    await process.resolve(token)
    await process.resolve(bystander)
    await stores.revoke(principal.api_key)
    assert process.cached(token) is not None

    process.on_version(int(await stores.redis.get(keyspace.KEY_VERSION)))

    assert process.cached(token) is None
    with pytest.raises(AuthenticationFailed):
        await process.resolve(token)
    assert await process.resolve(bystander) is not None


async def test_a_version_already_seen_costs_nothing(stores: Stores) -> None:
    token, _ = await stores.a_key()
    process = stores.a_process()
    process.on_version(7)
    await process.resolve(token)

    process.on_version(7)

    assert process.cached(token) is not None


async def test_a_row_read_before_a_revocation_does_not_bring_the_key_back(stores: Stores) -> None:
    token, principal = await stores.a_key()
    await stores.revoke(principal.api_key)

    entries = KeyEntries(stores.link, ttl_seconds=SETTINGS.redis_cache_seconds)
    stored = await entries.store(digest_of(PEPPER, token), KeyEntry(principal, None), version=0)

    assert not stored
    with pytest.raises(AuthenticationFailed):
        await stores.a_process().resolve(token)


async def test_a_revocation_heard_during_a_look_up_is_not_overtaken_by_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, principal = await stores.a_key()
    process = stores.a_process()
    read = principals.of_digest

    async def reads_then_hears(*arguments: Any) -> Holder | None:
        record = await read(*arguments)
        monkeypatch.setattr(principals, "of_digest", read)
        await stores.redis.delete(stores.redis_key(token))
        await stores.revoke(principal.api_key)
        process.on_revoked(principal.api_key)
        return record

    monkeypatch.setattr(principals, "of_digest", reads_then_hears)

    with pytest.raises(AuthenticationFailed):
        await process.resolve(token)
    assert process.cached(token) is None


async def test_a_key_revoked_while_redis_was_away_dies_with_its_trust(stores: Stores) -> None:
    token, principal = await stores.a_key()
    await stores.a_process().resolve(token)
    async with stores.database.begin() as connection:
        await api_keys.revoke(connection, principal.api_key, account=ACME, at=stores.clock.now())
    await stores.age_in_redis(token, seconds=SETTINGS.key_cache_seconds)

    with pytest.raises(AuthenticationFailed):
        await stores.a_process().resolve(token)

    assert await stores.redis.get(stores.redis_key(token)) == b"revoked"


async def test_a_key_expires_on_its_minute_wherever_it_is_held(stores: Stores) -> None:
    token, _ = await stores.a_key(expires_at=stores.clock.now() + timedelta(seconds=30))
    process = stores.a_process()
    await process.resolve(token)

    stores.clock.advance(30)

    assert process.cached(token) is None
    for each in (process, stores.a_process()):
        with pytest.raises(AuthenticationFailed):
            await each.resolve(token)


async def test_a_refusal_is_repeated_for_two_seconds_without_asking(stores: Stores) -> None:
    token, record = stores.mint()
    process = stores.a_process()
    with pytest.raises(AuthenticationFailed):
        await process.resolve(token)
    await stores.save(record)

    with pytest.raises(AuthenticationFailed):
        await process.resolve(token)
    stores.clock.advance(lookup_module.REFUSED_SECONDS)

    assert await process.resolve(token) is not None


async def test_refusals_remembered_are_bounded(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_module, "REFUSED_KEYS", 10)
    process = stores.a_process()
    first, record = stores.mint()
    for token in (first, *(stores.mint()[0] for _ in range(10))):
        with pytest.raises(AuthenticationFailed):
            await process.resolve(token)
    await stores.save(record)

    assert await process.resolve(first) is not None


async def test_an_unknown_key_leaves_nothing_in_redis(stores: Stores) -> None:
    with pytest.raises(AuthenticationFailed):
        await stores.a_process().resolve(stores.mint()[0])

    assert await stores.redis.dbsize() == 0


async def test_keys_remembered_are_bounded(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_module, "KNOWN_KEYS", 2)
    process = stores.a_process()
    tokens = [(await stores.a_key())[0] for _ in range(3)]

    for token in tokens:
        await process.resolve(token)

    assert [process.cached(token) is not None for token in tokens] == [False, True, True]


async def test_another_forms_entry_in_redis_is_read_anew(stores: Stores) -> None:
    token, principal = await stores.a_key()
    await stores.redis.set(stores.redis_key(token), b'["an older", "form"]', ex=60)

    assert await stores.a_process().resolve(token) == principal


async def test_a_key_redis_knows_is_good_while_the_database_is_away(
    fragile: Stores, postgres_server: PostgresServer
) -> None:
    token, principal = await fragile.a_key()
    await fragile.a_process().resolve(token)
    postgres_server.stop()
    await fragile.age_in_redis(token, seconds=SETTINGS.redis_cache_seconds - 5)

    assert await fragile.a_process().resolve(token) == principal

    left = await fragile.redis.ttl(fragile.redis_key(token))
    assert left > SETTINGS.redis_cache_seconds - 5  # used, so kept for as long as the outage lasts


async def test_callers_of_a_key_redis_knows_waited_for_a_frozen_database(
    fragile: Stores, postgres_server: PostgresServer
) -> None:
    token, principal = await fragile.a_key()
    await fragile.a_process().resolve(token)
    postgres_server.sigstop()
    await fragile.age_in_redis(token, seconds=SETTINGS.redis_cache_seconds - 5)

    async with asyncio.timeout(1):
        assert await fragile.a_process().resolve(token) == principal

    postgres_server.sigcont()


async def test_a_key_in_the_database_is_good_while_redis_is_away(
    fragile: Stores, private_redis: RedisServer
) -> None:
    token, principal = await fragile.a_key()
    private_redis.kill9()

    assert await fragile.a_process().resolve(token) == principal


async def test_a_revoked_key_is_refused_while_redis_is_away(
    fragile: Stores, private_redis: RedisServer
) -> None:
    token, principal = await fragile.a_key()
    process = fragile.a_process()
    await process.resolve(token)
    private_redis.kill9()

    with pytest.raises(RevocationNotAnnounced):
        await fragile.revoke(principal.api_key)
    fragile.clock.advance(SETTINGS.key_cache_seconds)

    with pytest.raises(AuthenticationFailed):
        await process.resolve(token)


async def test_with_both_stores_away_a_known_key_stays_good_and_an_unknown_one_is_not_judged(
    fragile: Stores, private_redis: RedisServer, postgres_server: PostgresServer
) -> None:
    known, principal = await fragile.a_key()
    unknown, _ = await fragile.a_key()
    process = fragile.a_process()
    await process.resolve(known)
    private_redis.kill9()
    postgres_server.stop()

    with pytest.raises(Overloaded):
        await process.resolve(unknown)
    fragile.clock.advance(SETTINGS.key_cache_seconds)
    assert await process.resolve(known) == principal
    fragile.clock.advance(SETTINGS.stale_seconds - 1)
    assert await process.resolve(known) == principal
    fragile.clock.advance(1)
    with pytest.raises(Overloaded):
        await process.resolve(known)

    private_redis.start()
    postgres_server.start()
    fragile.clock.advance(lookup_module.AWAY_SECONDS)
    assert await process.resolve(known) == principal
    assert await process.resolve(unknown) is not None


async def test_frozen_stores_are_waited_for_once_and_not_by_every_caller(
    fragile: Stores, private_redis: RedisServer, postgres_server: PostgresServer
) -> None:
    token, principal = await fragile.a_key()
    process = fragile.a_process()
    await process.resolve(token)
    fragile.clock.advance(SETTINGS.key_cache_seconds)
    private_redis.sigstop()
    postgres_server.sigstop()

    async with asyncio.timeout(8):
        assert await process.resolve(token) == principal
    async with asyncio.timeout(0.1):
        assert await process.resolve(token) == principal
        with pytest.raises(Overloaded):
            await process.resolve(fragile.mint()[0])

    private_redis.sigcont()
    postgres_server.sigcont()


def injections(count: int) -> list[str]:
    """SQL and NoSQL injection attempts in every costume, some of them dressed as keys."""
    seeds = [
        "' OR '1'='1",
        '" OR ""="',
        "'; DROP TABLE api_key; --",
        "') UNION SELECT digest FROM api_key --",
        "admin'/*",
        "1; SELECT pg_sleep(10)",
        "\\'; EXEC xp_cmdshell('dir'); --",
        "%27%20OR%201=1",
        "' AND 1=(SELECT COUNT(*) FROM account) --",
        "*\r\nFLUSHALL\r\n",
        "{$ne: null}",
        "\0' OR 1=1",
        "\uff07 OR 1=1",
        "hr:key:*",
    ]
    real = mint(PEPPER, account=ACME, name="x", now=ManualClock().now())[0]
    rng = random.Random(20_260_301)
    attempts = []
    for number in range(count):
        seed = rng.choice(seeds)
        cut = rng.randrange(len(real))
        costumes = [seed, f"gw_live_{seed}", real + seed, seed + real, real[:cut] + seed + real[cut:]]
        costumes.append((real[:cut] + seed)[:65].ljust(65, "A"))
        attempts.append(rng.choice(costumes) + ("" if number % 2 else str(number)))
    return attempts


async def test_a_thousand_injections_are_refused_without_touching_a_store() -> None:
    # Nobody listens there: touching a store would answer 503.
    link = ServerLink("redis://127.0.0.1:1/0", timeout=1)
    database = create_engine("postgresql://nobody@127.0.0.1:1/nothing")
    process = KeyLookup(link, database, pepper=PEPPER, settings=SETTINGS)

    for attempt in injections(1_000):
        assert process.cached(attempt) is None
        with pytest.raises(AuthenticationFailed):
            await process.resolve(attempt)

    with pytest.raises(Overloaded):
        await process.resolve(mint(PEPPER, account=ACME, name="x", now=ManualClock().now())[0])
    await process.aclose()
    await link.close()
    await database.dispose()


async def test_no_store_and_no_log_holds_a_key(stores: Stores, redis_server: RedisServer) -> None:
    logged: list[str] = []
    sink = logger.add(lambda line: logged.append(str(line)), level=0, serialize=True)
    token, principal = await stores.a_key()
    process = stores.a_process()
    await process.resolve(token)
    with pytest.raises(AuthenticationFailed):
        await process.resolve(stores.mint()[0])
    await stores.revoke(principal.api_key)
    logger.remove(sink)

    held = [*logged, *(file.read_text(errors="replace") for file in redis_server.data_dir.rglob("*.aof"))]
    async for key in stores.redis.scan_iter():
        held += [key.decode(), str(await stores.redis.get(key))]
    async with stores.database.connect() as connection:
        for table in tables.METADATA.sorted_tables:
            held += [str(row) for row in await connection.execute(select(table))]

    secret = token.removeprefix("gw_live_")[8:51]
    assert not [text for text in held if token in text or secret in text]
    assert [text for text in held if digest_of(PEPPER, token) in text]


async def test_revoking_what_does_not_exist_or_is_anothers_is_not_found(stores: Stores) -> None:
    _, principal = await stores.a_key()

    for key_id, account in ((ApiKeyId("key_none"), None), (principal.api_key, AccountId("other"))):
        with pytest.raises(NotFound):
            await revoke(
                stores.database,
                stores.link,
                key_id,
                clock=stores.clock,
                settings=SETTINGS,
                account=account,
            )
