"""Connections: one pool a process, every wait bounded.

A database that hangs is worse than one that is down: the server ends a statement
after STATEMENT_SECONDS, and where it is frozen and ends nothing, the client gives up.
"""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # ships no type information
from sqlalchemy import URL, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from shared.settings import Settings

POOL_SIZE: Final = 5
POOL_OVERFLOW: Final = 5
POOL_WAIT_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 2.0
STATEMENT_SECONDS: Final = 5.0
LOCK_SECONDS: Final = 2.0
_WRITES: Final = "headrace_writes"

DATABASE_ERRORS: Final = (
    SQLAlchemyError,
    OSError,
    TimeoutError,
    # SQLAlchemy passes on what asyncpg raises before there is a connection: refused, starting up.
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)
"""What a database that is away, full, starting or frozen raises."""


def refuses_the_data(error: BaseException) -> bool:
    """Whether the database will say so again, however often these values are written."""
    if isinstance(error, OverflowError | DataError | IntegrityError):
        # The first is sqlite3's for an integer of more than 64 bits.
        return True
    origin = error.orig if isinstance(error, StatementError) else None
    # asyncpg checks values before it sends them, and its own class comes as the cause.
    return isinstance(origin, OverflowError) or isinstance(
        getattr(origin, "__cause__", None), ValueError | asyncpg.DataError
    )


class UnusableDatabaseUrl(ValueError):
    """Says what is wrong with a database URL without repeating it: it holds a password."""


def url_of(settings: Settings) -> str:
    """DATABASE_URL, or a SQLite file in the data folder."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return f"sqlite:///{(settings.data_dir / 'headrace.db').absolute()}"


def create_engine(url: str) -> AsyncEngine:
    """An engine for what a process does while it serves. Dispose of it when done."""
    return _engine(url, statement_seconds=STATEMENT_SECONDS)


def create_migration_engine(url: str) -> AsyncEngine:
    """An engine without a limit on statements; on SQLite its transactions write from their start."""
    engine = _engine(url, statement_seconds=None)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "begin", _begin_immediately)
    return engine


def async_url(url: str) -> URL:
    """The URL as SQLAlchemy's asynchronous drivers want it."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UnusableDatabaseUrl("The database URL cannot be parsed.") from None
    scheme = parsed.drivername
    if scheme in {"sqlite", "sqlite+aiosqlite"}:
        return parsed.set(drivername="sqlite+aiosqlite")
    if scheme in {"postgres", "postgresql", "postgresql+asyncpg"}:
        # libpq's name for it, which hosted databases put into the URL they hand out.
        if mode := parsed.query.get("sslmode"):
            parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
        return parsed.set(drivername="postgresql+asyncpg")
    raise UnusableDatabaseUrl(f"The database URL must start with sqlite: or postgresql:, not {scheme}:.")


def _engine(url: str, *, statement_seconds: float | None) -> AsyncEngine:
    parsed = async_url(url)
    if parsed.drivername == "sqlite+aiosqlite":
        engine = create_async_engine(
            parsed, pool_size=POOL_SIZE, max_overflow=POOL_OVERFLOW, pool_timeout=POOL_WAIT_SECONDS
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        if statement_seconds is not None:
            event.listen(engine.sync_engine, "begin", _begin)
        return engine
    return create_async_engine(
        parsed,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        connect_args=_postgres_arguments(statement_seconds),
    )


def _postgres_arguments(statement_seconds: float | None) -> dict[str, Any]:
    server: dict[str, str] = {
        "application_name": "headrace",
        "timezone": "UTC",
        "lock_timeout": f"{LOCK_SECONDS * 1000:.0f}",
    }
    arguments: dict[str, Any] = {"timeout": CONNECT_SECONDS, "server_settings": server}
    if statement_seconds is not None:
        server["statement_timeout"] = f"{statement_seconds * 1000:.0f}"
        # The client's own limit, a little later: it only counts when the server is frozen.
        arguments["command_timeout"] = statement_seconds + 1
    return arguments


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # No implicit transactions: the driver would commit around DDL, and a migration must be one whole.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {STATEMENT_SECONDS * 1000:.0f}")
    # A property of the file. "Locked", which no busy_timeout waits for here, means that
    # another process is switching it this moment.
    with contextlib.suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    # The ledger deletes what it read from Redis once it committed here: a commit must be on disk.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def writing(engine: AsyncEngine) -> AbstractAsyncContextManager[AsyncConnection]:
    """`engine.begin()`, for a transaction that writes.

    On SQLite it takes the write lock at once, waiting for it: one that reads first and writes
    later is refused where somebody else wrote in between.
    """
    return engine.execution_options(**{_WRITES: True}).begin()


def _begin(connection: Any) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_immediately(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
