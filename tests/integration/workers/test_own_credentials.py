"""A worker finds an account's own key, opens it for one call, and sends it nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.clock import ManualClock
from shared.crypto import Opener, Sealer, new_master_key
from shared.db.engine import create_engine
from shared.db.repositories import accounts, provider_credentials
from shared.db.repositories.provider_credentials import CredentialRecord, place_of
from shared.domain.job import Job, Target
from shared.errors import ProviderCredentialRefused, ProviderUnavailable
from shared.ids import AccountId, CredentialId, new_credential_id
from shared.providers import openai
from shared.providers.profile import ProviderProfile
from shared.settings import BreakerSettings, WorkerSettings
from tests.fakes.provider import ScriptedProvider
from tests.integration.queue.support import Queue, a_job
from tests.integration.workers.support import SECRET, Worker, a_worker, failure
from workers.own_credentials import FRESH_SECONDS, OwnCredentials

PRIVATE, PUBLIC = new_master_key()
ACME, OTHER = AccountId("acme"), AccountId("other")
CANARY = "sk-canary-of-acme-alone"
PROFILE = openai.PROFILE


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        for account in (ACME, OTHER):
            await accounts.ensure(connection, account, name=account, at=datetime.now(UTC))
    yield engine
    await engine.dispose()


async def store(
    database: AsyncEngine,
    *,
    key: str = CANARY,
    profile: ProviderProfile = PROFILE,
    account: AccountId = ACME,
    public: str = PUBLIC,
) -> CredentialRecord:
    credential, sealer = new_credential_id(), Sealer(public)
    origins = tuple(sorted(profile.origins))
    record = CredentialRecord(
        id=credential,
        account_id=account,
        provider=profile.id,
        name="own",
        masked="...",
        origins=origins,
        sealed=sealer.seal(key, place_of(account, credential, profile.id, origins)),
        master_key_id=sealer.key_id,
        created_at=datetime.now(UTC),
    )
    async with database.begin() as connection:
        await provider_credentials.create(connection, record)
    return record


async def revoke(database: AsyncEngine, credential: CredentialId) -> None:
    async with database.begin() as connection:
        assert await provider_credentials.revoke(connection, credential, account=ACME, at=datetime.now(UTC))


def target_of(record: CredentialRecord) -> Target:
    return Target(record.provider, "m", record.id)


async def opened(own: OwnCredentials, record: CredentialRecord, account: AccountId = ACME) -> dict[str, str]:
    found = await own.sealed(account, target_of(record), PROFILE)
    return dict(own.open(found, PROFILE).headers)


async def test_it_opens_for_its_account_and_for_no_other(database: AsyncEngine) -> None:
    record = await store(database)
    own = OwnCredentials(database, Opener(PRIVATE))

    assert await opened(own, record) == {"authorization": f"Bearer {CANARY}"}
    with pytest.raises(ProviderCredentialRefused) as refused:
        await opened(own, record, OTHER)
    assert CANARY not in str(refused.value)
    assert await opened(own, record) == {"authorization": f"Bearer {CANARY}"}


async def test_an_open_key_is_in_no_repr(database: AsyncEngine) -> None:
    record = await store(database)
    own = OwnCredentials(database, Opener(PRIVATE))

    key = own.open(await own.sealed(ACME, target_of(record), PROFILE), PROFILE)

    assert CANARY not in repr(key)
    assert CANARY not in repr(vars(own))


async def test_a_revoked_one_is_refused_once_that_was_heard_or_a_minute_later(database: AsyncEngine) -> None:
    records = [await store(database) for _ in range(2)]
    clock = ManualClock()
    own = OwnCredentials(database, Opener(PRIVATE), clock=clock)
    for record in records:
        await opened(own, record)
        await revoke(database, record.id)
        await opened(own, record)

    own.forget(records[0].id)
    with pytest.raises(ProviderCredentialRefused, match="deleted"):
        await opened(own, records[0])
    await opened(own, records[1])
    clock.advance(FRESH_SECONDS)
    with pytest.raises(ProviderCredentialRefused, match="deleted"):
        await opened(own, records[1])


async def test_without_the_database_what_is_known_serves_on_and_what_is_not_can_be_tried_again(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = await store(database), await store(database)
    clock = ManualClock()
    own = OwnCredentials(database, Opener(PRIVATE), clock=clock)
    await opened(own, known)
    asked = 0

    async def away(*_: Any, **__: Any) -> None:
        nonlocal asked
        asked += 1
        raise ConnectionRefusedError

    with monkeypatch.context() as outage:
        outage.setattr(provider_credentials, "find", away)
        clock.advance(3600)
        for _ in range(3):
            assert await opened(own, known) == {"authorization": f"Bearer {CANARY}"}
            with pytest.raises(ProviderUnavailable) as later:
                await opened(own, unknown)
    assert later.value.retryable
    assert asked == 1
    clock.advance(1)
    assert await opened(own, unknown) == {"authorization": f"Bearer {CANARY}"}


async def test_a_revocation_heard_while_it_is_read_is_not_lost(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await store(database)
    own = OwnCredentials(database, Opener(PRIVATE))
    find = provider_credentials.find

    async def and_then_revoked(*arguments: Any, **named: Any) -> CredentialRecord | None:
        found = await find(*arguments, **named)
        if found is not None and found.revoked_at is None:
            await revoke(database, record.id)
            own.forget(record.id)
        return found

    # On SQLite a reader does not keep a writer out.
    monkeypatch.setattr(provider_credentials, "find", and_then_revoked)

    with pytest.raises(ProviderCredentialRefused):
        await opened(own, record)


async def test_what_is_heard_of_other_keys_meanwhile_is_no_reason_to_ask_again(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await store(database)
    own = OwnCredentials(database, Opener(PRIVATE))
    find, asked = provider_credentials.find, 0

    async def and_others_change(*arguments: Any, **named: Any) -> CredentialRecord | None:
        nonlocal asked
        asked += 1
        own.forget(new_credential_id())
        return await find(*arguments, **named)

    monkeypatch.setattr(provider_credentials, "find", and_others_change)

    for _ in range(2):
        await opened(own, record)

    assert asked == 1


async def test_many_jobs_at_once_ask_the_database_once(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await store(database)
    own = OwnCredentials(database, Opener(PRIVATE))
    asked = 0
    find = provider_credentials.find

    async def counted(*arguments: Any, **named: Any) -> CredentialRecord | None:
        nonlocal asked
        asked += 1
        return await find(*arguments, **named)

    monkeypatch.setattr(provider_credentials, "find", counted)

    await asyncio.gather(*(opened(own, record) for _ in range(20)))

    assert asked == 1


@pytest.mark.parametrize("elsewhere", ["https://evil.example/v1", "http://api.openai.com/v1"])
async def test_an_address_it_was_not_stored_for_never_gets_it(database: AsyncEngine, elsewhere: str) -> None:
    record = await store(database)
    own = OwnCredentials(database, Opener(PRIVATE))

    with pytest.raises(ProviderCredentialRefused, match="another address"):
        await own.sealed(ACME, target_of(record), PROFILE.with_base_url(elsewhere))


async def test_one_sealed_for_a_master_key_that_is_gone_or_with_rewritten_columns_opens_nothing(
    database: AsyncEngine,
) -> None:
    lost = await store(database, public=new_master_key()[1])
    record = await store(database)
    own = OwnCredentials(database, Opener(PRIVATE))

    with pytest.raises(ProviderCredentialRefused, match="cannot be opened"):
        await opened(own, lost)
    with pytest.raises(ProviderCredentialRefused, match="cannot be opened"):
        own.open(replace(record, origins=("https://evil.example:443",)), PROFILE)


# through a worker


BODY = b'{"model":"m","messages":[{"role":"user","content":"Hello"}]}'


def our_job() -> Job:
    return a_job(body=BODY)


def own_job(record: CredentialRecord, account: AccountId = ACME) -> Job:
    return replace(our_job(), account=account, plan=(target_of(record),))


def running(queue: Queue, provider: ScriptedProvider, database: AsyncEngine, **options: Any) -> Any:
    own = OwnCredentials(database, Opener(PRIVATE))
    return a_worker(queue, provider.base_url, own_credentials=own, **options)


def placed(provider: ScriptedProvider) -> ProviderProfile:
    return PROFILE.with_base_url(provider.base_url)


async def keys_seen(provider: ScriptedProvider) -> list[str]:
    calls = await provider.calls()
    return [call.received["headers"].get("authorization", "") for call in calls if call.received]


async def test_a_job_runs_on_its_accounts_key_and_the_next_on_the_brokers(
    queue: Queue, provider: ScriptedProvider, database: AsyncEngine
) -> None:
    record = await store(database, profile=placed(provider))
    async with running(queue, provider, database) as worker:
        results = [await worker.run(job) for job in (own_job(record), our_job(), own_job(record))]
        sessions = [dict(session.headers) for session in worker.context.transport._sessions.values()]

    assert [result.head.error for result in results] == [None, None, None]
    assert await keys_seen(provider) == [f"Bearer {key}" for key in (CANARY, SECRET, CANARY)]
    assert len(sessions) == 2
    assert CANARY not in str(sessions)


async def test_a_provider_without_a_key_of_the_brokers_works_on_the_accounts(
    queue: Queue, provider: ScriptedProvider, database: AsyncEngine
) -> None:
    record = await store(database, profile=placed(provider))
    async with running(queue, provider, database, secrets={"anthropic": SECRET}) as worker:
        own, ours = await worker.run(own_job(record)), await worker.run(our_job())

    assert own.head.status == 200
    assert failure(ours).code == "provider_credential_refused"


async def test_another_accounts_credential_is_refused_and_its_key_never_sent(
    queue: Queue, provider: ScriptedProvider, database: AsyncEngine
) -> None:
    record = await store(database, profile=placed(provider))
    async with running(queue, provider, database) as worker:
        result = await worker.run(own_job(record, OTHER))

    assert failure(result).code == "provider_credential_refused"
    assert await keys_seen(provider) == []


async def test_a_second_origin_never_sees_the_key(
    queue: Queue, provider: ScriptedProvider, database: AsyncEngine
) -> None:
    second = ScriptedProvider().start()
    try:
        record = await store(database, profile=placed(provider))
        async with running(queue, second, database) as worker:
            result = await worker.run(own_job(record))
            seen = await keys_seen(second)
    finally:
        second.stop()

    assert failure(result).code == "provider_credential_refused"
    assert seen == []


ONE_FAILURE = BreakerSettings(fail_max=1, window_calls=1)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "provider_credential_refused"),
        (429, "rate_limit_exceeded"),
        (500, "provider_unavailable"),
    ],
)
async def test_what_one_tenants_key_meets_touches_nobody_else(
    queue: Queue, provider: ScriptedProvider, database: AsyncEngine, status: int, code: str
) -> None:
    profile = placed(provider)
    bad = await store(database, profile=profile, key=f"sk-refused-with-{status}")
    good = await store(database, profile=profile, account=OTHER, key="sk-good")
    # Pauses long enough to be seen, and a breaker that the first failure opens.
    slow = WorkerSettings(pause_base_seconds=30, pause_cap_seconds=30)
    async with running(queue, provider, database, breaker=ONE_FAILURE, worker=slow) as worker:
        gate = worker.context.gate
        refused = await worker.run(own_job(bad))
        others = [await worker.run(job) for job in (our_job(), own_job(good, OTHER))]
        ours, theirs = gate.condition("openai"), gate.condition("openai", bad.id)
        room = gate.room("openai")

    assert failure(refused).code == code
    assert "sk-refused" not in str(refused.head.error)
    assert [other.head.status for other in others] == [200, 200]
    assert (ours[0], ours[2]) == ("closed", 0.0)
    assert room > 0
    assert (theirs[0] == "open", theirs[2] > 0) == (status == 500, status == 429)


async def test_the_limits_of_an_accounts_own_key_are_not_told_as_ours(
    queue: Queue, provider: ScriptedProvider, database: AsyncEngine
) -> None:
    profile = PROFILE.with_base_url(f"{provider.url}/xai/v1")
    record = await store(database, profile=profile)
    own = OwnCredentials(database, Opener(PRIVATE))
    async with a_worker(queue, f"{provider.url}/xai/v1", own_credentials=own) as worker:
        await worker.run(own_job(record))
        before = await told_limits(worker)
        await worker.run(our_job())

        assert before is None
        assert await told_limits(worker) is not None


async def told_limits(worker: Worker) -> bytes | None:
    await worker.context.limits.store(worker.queue.link)
    found: bytes | None = await worker.queue.link.execute("GET", keyspace.limits("openai"))
    return found
