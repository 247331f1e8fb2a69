"""INSERT where a row may be there already; both databases have it, each in its dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


async def insert_new(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert those of `rows` whose primary key is new."""
    if not rows:
        return
    key = list(table.primary_key.columns)
    if connection.dialect.name == "postgresql":
        await connection.execute(
            postgresql.insert(table).on_conflict_do_nothing(index_elements=key), [dict(row) for row in rows]
        )
    else:
        await connection.execute(
            sqlite.insert(table).on_conflict_do_nothing(index_elements=key), [dict(row) for row in rows]
        )


async def insert_or_replace(connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert `row`, or give the one with its primary key these values."""
    key = list(table.primary_key.columns)
    rest = {name: value for name, value in row.items() if name not in {column.name for column in key}}
    if connection.dialect.name == "postgresql":
        await connection.execute(
            postgresql.insert(table).values(dict(row)).on_conflict_do_update(index_elements=key, set_=rest)
        )
    else:
        await connection.execute(
            sqlite.insert(table).values(dict(row)).on_conflict_do_update(index_elements=key, set_=rest)
        )
