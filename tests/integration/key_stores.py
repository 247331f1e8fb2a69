"""A Redis and a database with keys in them, and processes that look keys up there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.auth.access_tokens import AccessTokens
from shared.auth.api_keys import digest as digest_of
from shared.auth.api_keys import mint
from shared.auth.lookup import KeyLookup
from shared.auth.passwords import Passwords
from shared.auth.revocation import revoke
from shared.auth.sessions import Sessions
from shared.clock import ManualClock
from shared.db.engine import create_engine
from shared.db.repositories import accounts, api_keys
from shared.db.repositories.api_keys import ApiKeyRecord
from shared.domain.principal import Principal
from shared.ids import AccountId, ApiKeyId
from shared.queue.redis_link import RedisLink
from shared.settings import AccountSettings, AuthSettings
from tests.integration.queue.support import open_link

PEPPER = b"pepper of the tests, 32 bytes or so"
JWT_SECRET = b"secret of the tests, for access tokens"
ACME = AccountId("acme")
SETTINGS = AuthSettings()


@dataclass
class Stores:
    """A Redis and a database, and processes that look keys up in them."""

    redis: Redis
    link: RedisLink
    database: AsyncEngine
    clock: ManualClock
    closing: AsyncExitStack

    def a_process(self) -> KeyLookup:
        process = KeyLookup(
            self.link,
            self.database,
            pepper=PEPPER,
            settings=SETTINGS,
            tokens=self.access_tokens(),
            clock=self.clock,
        )
        self.closing.push_async_callback(process.aclose)
        return process

    def access_tokens(self) -> AccessTokens:
        return AccessTokens(JWT_SECRET, life=timedelta(minutes=15), clock=self.clock)

    def sessions(self) -> Sessions:
        passwords = Passwords(slots=2, queue=32)
        self.closing.callback(passwords.close)
        return Sessions(
            self.database,
            self.access_tokens(),
            passwords,
            pepper=PEPPER,
            settings=AccountSettings(),
            clock=self.clock,
        )

    def mint(self, **particulars: Any) -> tuple[str, ApiKeyRecord]:
        return mint(PEPPER, account=ACME, name="laptop", now=self.clock.now(), **particulars)

    async def save(self, record: ApiKeyRecord) -> None:
        async with self.database.begin() as connection:
            await accounts.ensure(connection, ACME, name="Acme", at=self.clock.now())
            await api_keys.create(connection, record)

    async def a_key(self, **particulars: Any) -> tuple[str, Principal]:
        token, record = self.mint(**particulars)
        await self.save(record)
        return token, Principal(account=ACME, api_key=record.id)

    async def revoke(self, key_id: ApiKeyId) -> None:
        await revoke(self.database, self.link, key_id, clock=self.clock, settings=SETTINGS)

    async def age_in_redis(self, token: str, *, seconds: float) -> None:
        """As if the database had been asked about the key so long ago."""
        left = SETTINGS.redis_cache_seconds - seconds
        await self.redis.pexpire(self.redis_key(token), int(left * 1000))

    def redis_key(self, token: str) -> str:
        return keyspace.api_key(digest_of(PEPPER, token))


async def stores_of(redis_url: str, database_url: str) -> AsyncIterator[Stores]:
    async with AsyncExitStack() as closing:
        engine = create_engine(database_url)
        closing.push_async_callback(engine.dispose)
        redis = await closing.enter_async_context(Redis.from_url(redis_url, socket_timeout=1))
        link = await closing.enter_async_context(open_link(redis_url, timeout=1))
        yield Stores(redis, link, engine, ManualClock(), closing)
