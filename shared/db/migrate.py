"""Migrations, run by `headrace db upgrade` and never by a process that serves.

An upgrade is one transaction: it happens wholly or not at all. Of two that start together
one waits and then finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from shared.db.engine import async_url, create_engine, create_migration_engine

_SCRIPTS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x6865_6164_7261_6365
"""PostgreSQL advisory lock held while migrating; `headrace` in ASCII."""


async def upgrade(url: str, revision: str = "head") -> None:
    _make_folder(url)
    await _run(url, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, revision: str) -> None:
    await _run(url, lambda config: command.downgrade(config, revision))


async def current(url: str) -> str | None:
    """The revision the database is at; None when it has no tables yet."""
    _make_folder(url)
    engine = create_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(revision_of)
    finally:
        await engine.dispose()


def revision_of(connection: Connection) -> str | None:
    """The revision that the database of this connection is at."""
    return MigrationContext.configure(connection).get_current_revision()


def revisions() -> set[str]:
    """All that this version of Headrace knows."""
    return {script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()}


def head() -> str | None:
    """The revision this version of Headrace needs."""
    return ScriptDirectory(str(_SCRIPTS)).get_current_head()


def is_behind(found: str | None) -> bool:
    """Whether this version would upgrade a database at `found`. What it does not know is of a later one."""
    known = {script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()}
    return found is None or (found in known and found != head())


async def _run(url: str, act: Callable[[Config], None]) -> None:
    def within(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            # Waiting for the other migration is not a lock problem: no limit on it.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            connection.execute(text("SET LOCAL lock_timeout = DEFAULT"))
        config = Config()
        # Alembic's options go through configparser, where % is special.
        config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
        config.attributes["connection"] = connection
        act(config)

    engine = create_migration_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(within)
    finally:
        await engine.dispose()


def _make_folder(url: str) -> None:
    parsed = async_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        Path(str(parsed.database)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
