"""How Alembic runs a migration: on the connection, and in the transaction, that migrate.py opened."""

from __future__ import annotations

from alembic import context

from shared.db.tables import METADATA

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=METADATA,
    # SQLite cannot alter a column: batch mode copies the table.
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
