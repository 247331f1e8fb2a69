"""INSERT that leaves a row alone which is already there; both databases have it, each in its dialect."""

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
