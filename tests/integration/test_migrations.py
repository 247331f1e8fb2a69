"""The tables that migrations make are the tables the code means, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from shared.db import migrate
from shared.db.engine import create_engine
from shared.db.tables import METADATA


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, METADATA))


async def inspected(url: str, question: Any) -> Any:
    engine = create_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(question)
    finally:
        await engine.dispose()


async def test_migrations_make_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    await migrate.upgrade(empty_database_url)

    assert await inspected(empty_database_url, differences) == []


async def test_a_downgrade_leaves_nothing_and_an_upgrade_follows(empty_database_url: str) -> None:
    await migrate.upgrade(empty_database_url)

    await migrate.downgrade(empty_database_url, "base")

    left = await inspected(empty_database_url, lambda c: inspect(c).get_table_names())
    assert set(left) <= {"alembic_version"}
    assert await migrate.current(empty_database_url) is None
    await migrate.upgrade(empty_database_url)
    assert await inspected(empty_database_url, differences) == []


async def test_current_names_the_revision_before_and_after(empty_database_url: str) -> None:
    assert await migrate.current(empty_database_url) is None

    await migrate.upgrade(empty_database_url)

    assert await migrate.current(empty_database_url) == migrate.head() == "0006"


async def test_two_upgrades_at_once_both_succeed(empty_database_url: str) -> None:
    await asyncio.gather(*(migrate.upgrade(empty_database_url) for _ in range(4)))

    assert await inspected(empty_database_url, differences) == []


async def test_a_migration_that_fails_leaves_the_database_as_it_was(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade

    def fails_after_its_tables(*arguments: Any) -> None:
        upgrade(*arguments)
        raise RuntimeError("cut")

    monkeypatch.setattr(command, "upgrade", fails_after_its_tables)

    with pytest.raises(RuntimeError, match="cut"):
        await migrate.upgrade(empty_database_url)

    assert await inspected(empty_database_url, lambda c: inspect(c).get_table_names()) == []
