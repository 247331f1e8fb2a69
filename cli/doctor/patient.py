"""What the checks look at, opened once and shared by all of them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cli.doctor.findings import NotThere
from cli.stores import redis_url_of
from shared.clock import Clock
from shared.db.engine import DATABASE_ERRORS, async_url, create_engine, url_of
from shared.providers.registry import Registry
from shared.queue.links import open_link
from shared.queue.redis_link import RedisLink
from shared.settings import Settings

REDIS_SECONDS: Final = 3.0
"""How long one answer of Redis is waited for; less than any check may take."""


class RedisAway(NotThere):
    """`why`: a sentence without the address. `refused`: it is there, and does not take who we say we are."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__("Redis has to be reached first.")
        self.why = why
        self.refused = refused


class DatabaseAway(NotThere):
    def __init__(self, error: BaseException) -> None:
        super().__init__("The database has to be reached first.")
        self.error = error


class Patient:
    """`settings` are usable ones, as far as boot can tell; `registry`: the providers they name."""

    def __init__(self, settings: Settings, registry: Registry, clock: Clock) -> None:
        self.settings = settings
        self.registry = registry
        self.clock = clock
        self.redis_url = redis_url_of(settings)
        self.database_url = url_of(settings)
        self._redis: asyncio.Task[RedisLink] | None = None
        self._engine: AsyncEngine | None = None
        self._reached: asyncio.Task[None] | None = None

    @property
    def in_production(self) -> bool:
        return self.settings.environment == "production"

    @property
    def embedded_database(self) -> Path | None:
        """The file, where the database is one."""
        parsed = async_url(self.database_url)
        return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None

    async def redis(self) -> RedisLink:
        """Raises NotThere."""
        if self.redis_url is None:
            raise NotThere("REDIS_URL is not set, and no `headrace up` runs on the data folder.")
        if self._redis is None:
            self._redis = asyncio.create_task(self._open_redis(self.redis_url))
        return await asyncio.shield(self._redis)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[AsyncConnection]:
        """Raises NotThere."""
        file = self.embedded_database
        if file is not None and not file.is_file():
            raise NotThere("There is no database yet: `headrace up` and `headrace db upgrade` make one.")
        if self._engine is None:
            self._engine = create_engine(self.database_url)
        if self._reached is None:
            self._reached = asyncio.create_task(self._reach(self._engine))
        await asyncio.shield(self._reached)
        async with self._engine.connect() as connection:
            yield connection

    async def close(self) -> None:
        if self._redis is not None:
            self._redis.cancel()
            [link] = await asyncio.gather(self._redis, return_exceptions=True)
            if isinstance(link, RedisLink):
                await link.close()
        if self._reached is not None:
            self._reached.cancel()
            await asyncio.gather(self._reached, return_exceptions=True)
        if self._engine is not None:
            await self._engine.dispose()

    async def _open_redis(self, url: str) -> RedisLink:
        link = open_link(url, timeout=REDIS_SECONDS)
        try:
            await link.execute("PING")
        except (RedisError, OSError) as exc:
            await link.close()
            raise _redis_away(exc) from exc
        except asyncio.CancelledError:
            await link.close()
            raise
        return link

    async def _reach(self, engine: AsyncEngine) -> None:
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
        except DATABASE_ERRORS as exc:
            raise DatabaseAway(exc) from exc


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the innermost last."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def network_trouble(error: BaseException) -> str | None:
    """What a connection failed of, in words; None where it was not the network."""
    found = list(causes(error))
    # gaierror and the errors of TLS are OSErrors too, and a timeout may be the cause of any.
    for one in found:
        if isinstance(one, socket.gaierror):
            return "its name cannot be resolved"
        if isinstance(one, ssl.SSLCertVerificationError):
            # aiohttp's own class of that name has no message.
            why = getattr(one, "verify_message", "")
            return f"its certificate does not verify{f' ({why})' if why else ''}"
        if isinstance(one, ssl.SSLError):
            return "no TLS connection can be made"
    for one in found:
        if isinstance(one, ConnectionRefusedError):
            return "nothing listens there"
        if isinstance(one, TimeoutError | RedisTimeoutError):
            return "it does not answer in time"
    return "the connection fails" if any(isinstance(one, OSError) for one in found) else None


def _redis_away(error: BaseException) -> RedisAway:
    for one in causes(error):
        if isinstance(one, BusyLoadingError):
            return RedisAway("it is still loading its data")
        if isinstance(one, AuthenticationError) or (
            isinstance(one, ResponseError) and ("NOPERM" in str(one) or "AUTH" in str(one))
        ):
            return RedisAway(_refusal(str(one)), refused=True)
    return RedisAway(network_trouble(error) or "it answers with an error")


def _refusal(answer: str) -> str:
    """From the server's words, which name no password."""
    if "without any password" in answer:
        return "it has no password, and REDIS_URL holds one"
    if "NOPERM" in answer:
        return "its user may not do what a broker does"
    if "WRONGPASS" in answer or "invalid" in answer:
        return "it does not know the user or the password of REDIS_URL"
    return "it wants a password, and REDIS_URL holds none"
