"""Sessions: begun by a password, renewed once each, ended everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from shared import keyspace
from shared.auth.announcement import announce
from shared.auth.key_entry import KeyEntries, KeyEntry
from shared.auth.session_end import end, end_all
from shared.auth.sessions import Client, RefreshTokenReused, Session
from shared.db.repositories import accounts, memberships, refresh_tokens, users
from shared.db.repositories.principals import of_member, session_digest
from shared.db.repositories.users import EmailTaken
from shared.db.tables import audit_event, refresh_token, user
from shared.domain.allowance import Limits, Scope, Tier
from shared.domain.principal import Principal
from shared.domain.roles import Permission, Role
from shared.errors import AuthenticationFailed, InvalidRequest
from shared.ids import AccountId, ApiKeyId
from tests.fakes.redis_server import RedisServer
from tests.integration.key_stores import SETTINGS, Stores, stores_of

LAPTOP, PHONE = Client("laptop", "10.0.0.1", "req_12345678"), Client("phone", "10.0.0.2")
PASSWORD = "correct horse battery"


@pytest.fixture
async def stores(redis_url: str, database_url: str) -> AsyncIterator[Stores]:
    async for each in stores_of(redis_url, database_url):
        yield each


@pytest.fixture
async def ada(stores: Stores) -> Session:
    return await stores.sessions().register("Ada@Example.com", PASSWORD, "Ada", LAPTOP)


async def principal_of(stores: Stores, session: Session) -> Principal:
    return await stores.a_process().resolve(session.access_token)


async def acts(stores: Stores) -> list[str]:
    async with stores.database.connect() as connection:
        rows = await connection.execute(select(audit_event.c.act).order_by(audit_event.c.id))
    return [row.act for row in rows]


async def test_whoever_registers_has_an_account_of_the_standard_tier(stores: Stores, ada: Session) -> None:
    principal = await principal_of(stores, ada)

    assert principal.account == ada.account
    assert principal.user == ada.user.id
    assert principal.api_key == ApiKeyId(ada.user.id)
    assert principal.role is Role.ADMIN
    assert not principal.may(Permission.OPERATE)
    assert [(a.scope, a.tier) for a in principal.allowances] == [(Scope.ACCOUNT, Tier.STANDARD)]
    assert ada.user.email == "ada@example.com"


async def test_an_email_is_taken_once(stores: Stores, ada: Session) -> None:
    with pytest.raises(EmailTaken):
        await stores.sessions().register("ADA@example.com ", "another password", "Eve", PHONE)

    with pytest.raises(InvalidRequest):
        await stores.sessions().register("ada@nowhere", PASSWORD, "Ada", PHONE)


async def test_a_login_takes_the_password_of_the_user(stores: Stores, ada: Session) -> None:
    sessions = stores.sessions()

    again = await sessions.login("ADA@EXAMPLE.COM", PASSWORD, PHONE)

    assert again.account == ada.account
    assert (await principal_of(stores, again)).user == ada.user.id
    for email, password in (
        ("ada@example.com", "wrong password"),
        ("eve@example.com", PASSWORD),
        ("ada@example.com", ""),
    ):
        with pytest.raises(AuthenticationFailed, match="email or the password"):
            await sessions.login(email, password, PHONE)
    with pytest.raises(AuthenticationFailed, match="email or the password"):
        await sessions.login("ada@example.com", PASSWORD, PHONE, account=AccountId("acme"))


async def test_no_secret_is_stored(stores: Stores, ada: Session) -> None:
    async with stores.database.connect() as connection:
        users_stored = (await connection.execute(select(user))).all()
        stored = [users_stored, (await connection.execute(select(refresh_token))).all()]

    assert PASSWORD not in str(stored)
    assert ada.refresh_token not in str(stored)
    assert ada.access_token not in str(stored)


async def test_a_refresh_token_is_good_once_and_its_successor_after_it(stores: Stores, ada: Session) -> None:
    sessions = stores.sessions()

    second = await sessions.refresh(ada.refresh_token, LAPTOP)
    third = await sessions.refresh(second.refresh_token, LAPTOP)

    assert len({ada.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert (await principal_of(stores, third)).user == ada.user.id
    stores.clock.advance(11)
    with pytest.raises(AuthenticationFailed):
        await sessions.refresh(second.refresh_token, LAPTOP)


async def test_of_two_refreshes_at_once_both_get_the_same_successor(stores: Stores, ada: Session) -> None:
    one, other = await asyncio.gather(
        *(stores.sessions().refresh(ada.refresh_token, LAPTOP) for _ in range(2))
    )

    assert one.refresh_token == other.refresh_token
    assert (await stores.sessions().refresh(one.refresh_token, LAPTOP)).account == ada.account


@pytest.mark.parametrize("client", [LAPTOP, PHONE], ids=["late", "another client"])
async def test_a_refresh_token_that_is_used_again_ends_its_family(
    stores: Stores, ada: Session, client: Client
) -> None:
    sessions = stores.sessions()
    second = await sessions.refresh(ada.refresh_token, LAPTOP)
    other_login = await sessions.login("ada@example.com", PASSWORD, PHONE)
    if client is LAPTOP:
        stores.clock.advance(11)

    with pytest.raises(AuthenticationFailed):
        await sessions.refresh(ada.refresh_token, client)

    with pytest.raises(AuthenticationFailed):
        await sessions.refresh(second.refresh_token, LAPTOP)
    assert (await sessions.refresh(other_login.refresh_token, PHONE)).user.id == ada.user.id
    assert "refresh-token.reused" in await acts(stores)


@pytest.mark.parametrize("token", ["", "rt_", "rt_" + "0" * 64, "rt_" + "\u00fc" * 64, "x" * 10_000])
async def test_a_made_up_refresh_token_is_refused(stores: Stores, token: str) -> None:
    with pytest.raises(AuthenticationFailed):
        await stores.sessions().refresh(token, LAPTOP)


async def test_a_refresh_token_expires(stores: Stores, ada: Session) -> None:
    stores.clock.advance(30 * 86_400 + 1)

    with pytest.raises(AuthenticationFailed):
        await stores.sessions().refresh(ada.refresh_token, LAPTOP)


async def test_an_access_token_is_forgotten_when_it_expires(stores: Stores, ada: Session) -> None:
    process = stores.a_process()
    await process.resolve(ada.access_token)
    assert process.cached(ada.access_token) is not None

    stores.clock.advance(15 * 60 + 31)

    assert process.cached(ada.access_token) is None
    with pytest.raises(AuthenticationFailed):
        await process.resolve(ada.access_token)


async def test_a_session_that_was_ended_is_over_in_every_process(stores: Stores, ada: Session) -> None:
    other = await stores.sessions().login("ada@example.com", PASSWORD, PHONE)
    first, second = stores.a_process(), stores.a_process()
    for process in (first, second):
        await process.resolve(ada.access_token)
        await process.resolve(other.access_token)
    claims = stores.access_tokens().read(ada.access_token)

    await stores.sessions().logout(claims, LAPTOP)
    await end(stores.link, claims.session, claims.user, life=timedelta(minutes=15), settings=SETTINGS)
    first.on_revoked(ApiKeyId(ada.user.id))
    second.on_version(1)  # which was lost to this one

    for process in (first, second, stores.a_process()):
        with pytest.raises(AuthenticationFailed):
            await process.resolve(ada.access_token)
        assert (await process.resolve(other.access_token)).user == ada.user.id
    with pytest.raises(AuthenticationFailed):
        await stores.sessions().refresh(ada.refresh_token, LAPTOP)


async def test_logged_out_everywhere_a_user_has_to_log_in_again(stores: Stores, ada: Session) -> None:
    other = await stores.sessions().login("ada@example.com", PASSWORD, PHONE)
    process = stores.a_process()
    await process.resolve(other.access_token)
    claims = stores.access_tokens().read(ada.access_token)

    await stores.sessions().logout(claims, LAPTOP, everywhere=True)
    await end_all(stores.database, stores.link, ada.user.id, clock=stores.clock, settings=SETTINGS)
    process.on_revoked(ApiKeyId(ada.user.id))

    for token in (ada.access_token, other.access_token):
        with pytest.raises(AuthenticationFailed):
            await process.resolve(token)
    with pytest.raises(AuthenticationFailed):
        await stores.sessions().refresh(other.refresh_token, PHONE)
    anew = await stores.sessions().login("ada@example.com", PASSWORD, PHONE)
    assert (await process.resolve(anew.access_token)).user == ada.user.id


async def test_a_disabled_user_is_out(stores: Stores, ada: Session) -> None:
    process = stores.a_process()
    await process.resolve(ada.access_token)
    async with stores.database.begin() as connection:
        await users.change(connection, ada.user.id, disabled_at=stores.clock.now())

    await end_all(stores.database, stores.link, ada.user.id, clock=stores.clock, settings=SETTINGS)
    process.on_revoked(ApiKeyId(ada.user.id))

    with pytest.raises(AuthenticationFailed):
        await process.resolve(ada.access_token)
    with pytest.raises(AuthenticationFailed):
        await stores.sessions().refresh(ada.refresh_token, LAPTOP)
    with pytest.raises(AuthenticationFailed):
        await stores.sessions().login("ada@example.com", PASSWORD, LAPTOP)


async def test_a_changed_role_or_limit_holds_for_sessions_under_way(stores: Stores, ada: Session) -> None:
    process = stores.a_process()
    await process.resolve(ada.access_token)
    async with stores.database.begin() as connection:
        await memberships.change(connection, ada.account, ada.user.id, role=Role.VIEWER)
        await accounts.set_allowance(
            connection, ada.account, tier=Tier.UNLIMITED, limits=Limits(daily_requests=3)
        )

    await announce(stores.database, stores.link, ada.account, clock=stores.clock, settings=SETTINGS)
    process.on_revoked(ApiKeyId(ada.user.id))

    principal = await process.resolve(ada.access_token)
    assert not principal.may(Permission.INFERENCE)
    assert [a.limits for a in principal.allowances] == [Limits(daily_requests=3)]


async def test_of_an_account_that_a_user_left_no_token_is_good(stores: Stores, ada: Session) -> None:
    async with stores.database.begin() as connection:
        await memberships.remove(connection, ada.account, ada.user.id)

    with pytest.raises(AuthenticationFailed):
        await stores.a_process().resolve(ada.access_token)
    with pytest.raises(AuthenticationFailed):
        await stores.sessions().refresh(ada.refresh_token, LAPTOP)


async def test_who_was_read_as_a_member_before_it_left_is_not_kept_as_one_after(
    stores: Stores, ada: Session
) -> None:
    digest = session_digest(ada.user.id, ada.account)
    entries = KeyEntries(stores.link, ttl_seconds=SETTINGS.redis_cache_seconds)
    _, version = await entries.read(digest)
    async with stores.database.connect() as connection:
        read_before = await of_member(connection, ada.user.id, ada.account)
    assert read_before is not None
    async with stores.database.begin() as connection:
        await memberships.remove(connection, ada.account, ada.user.id)
    await announce(
        stores.database,
        stores.link,
        ada.account,
        clock=stores.clock,
        settings=SETTINGS,
        left=[ada.user.id],
    )

    kept = await entries.store(digest, KeyEntry.of(read_before), version=version)

    assert not kept
    with pytest.raises(AuthenticationFailed):
        await principal_of(stores, ada)
    async with stores.database.begin() as connection:
        await memberships.add(connection, ada.account, ada.user.id, Role.VIEWER, at=stores.clock.now())
    await announce(stores.database, stores.link, ada.account, clock=stores.clock, settings=SETTINGS)
    assert (await principal_of(stores, ada)).role is Role.VIEWER


async def test_sessions_outlive_redis_as_keys_do(private_redis: RedisServer, sqlite_url: str) -> None:
    async for stores in stores_of(private_redis.url, sqlite_url):
        session = await stores.sessions().register("bob@example.com", PASSWORD, "Bob", LAPTOP)
        process = stores.a_process()
        await process.resolve(session.access_token)
        private_redis.kill9()

        assert (await process.resolve(session.access_token)).user == session.user.id
        stores.clock.advance(61)
        assert (await process.resolve(session.access_token)).user == session.user.id
        private_redis.start()


async def test_a_process_without_a_secret_reads_no_access_token(stores: Stores, ada: Session) -> None:
    process = stores.a_process()
    process._tokens = None

    with pytest.raises(AuthenticationFailed):
        await process.resolve(ada.access_token)


async def test_the_life_of_a_session_is_told(stores: Stores) -> None:
    assert stores.sessions().life == timedelta(minutes=15)


async def test_a_newer_token_of_a_session_that_ended_stays_ended(stores: Stores, ada: Session) -> None:
    newer = await stores.sessions().refresh(ada.refresh_token, LAPTOP)
    claims = stores.access_tokens().read(ada.access_token)

    await end(stores.link, claims.session, claims.user, life=timedelta(minutes=15), settings=SETTINGS)

    left = await stores.redis.ttl(keyspace.session_ended(claims.session))
    assert left >= 15 * 60
    with pytest.raises(AuthenticationFailed):
        await stores.a_process().resolve(newer.access_token)


async def test_a_reuse_says_whose_session_is_to_be_ended(stores: Stores, ada: Session) -> None:
    sessions = stores.sessions()
    await sessions.refresh(ada.refresh_token, LAPTOP)

    with pytest.raises(RefreshTokenReused) as reused:
        await sessions.refresh(ada.refresh_token, PHONE)

    assert reused.value.user == ada.user.id
    assert reused.value.session == stores.access_tokens().read(ada.access_token).session


async def test_a_refresh_that_meets_the_end_of_all_sessions_does_not_outlive_it(
    stores: Stores, ada: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = stores.sessions()
    used, go_on = asyncio.Event(), asyncio.Event()
    use = refresh_tokens.use

    async def uses_and_waits(*args: Any, **more: Any) -> Any:
        found = await use(*args, **more)
        used.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(refresh_tokens, "use", uses_and_waits)
    refreshing = asyncio.create_task(sessions.refresh(ada.refresh_token, LAPTOP))
    await used.wait()
    monkeypatch.setattr(refresh_tokens, "use", use)
    claims = stores.access_tokens().read(ada.access_token)
    ending = asyncio.create_task(stores.sessions().logout(claims, LAPTOP, everywhere=True))
    asyncio.get_running_loop().call_later(0.2, go_on.set)
    renewed, _ = await asyncio.gather(refreshing, ending)

    with pytest.raises(AuthenticationFailed):
        await sessions.refresh(renewed.refresh_token, LAPTOP)


@pytest.mark.parametrize("email", ["a\u0000@example.com", "\u0000", "'; --", "a" * 400, ""])
async def test_an_email_that_is_none_is_nobodys(stores: Stores, email: str) -> None:
    with pytest.raises(AuthenticationFailed, match="email or the password"):
        await stores.sessions().login(email, PASSWORD, LAPTOP)
