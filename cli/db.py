"""`headrace db`: the database, its migrations, and a copy of the embedded one."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.configuration import database_url_or_exit, fail, settings_or_exit
from shared.db import migrate
from shared.db.engine import DATABASE_ERRORS, async_url

app = typer.Typer(no_args_is_help=True)

_LOOK_SECONDS: Final = 1.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("upgrade")
def upgrade() -> None:
    """Bring the database to what this version needs. Safe to run again, and by several at once."""
    url = database_url_or_exit(settings_or_exit())
    try:
        before = asyncio.run(migrate.current(url))
        asyncio.run(migrate.upgrade(url))
    except DATABASE_ERRORS as error:
        fail(_away(error), os.EX_UNAVAILABLE)
    if before == migrate.head():
        typer.echo(f"The database is at {migrate.head()} already.")
    else:
        typer.echo(f"The database went from {before or 'nothing'} to {migrate.head()}.")


@app.command("current")
def current(as_json: Json = False) -> None:
    """Show the revision of the database and the one this version needs. Exits 1 when they differ."""
    url = database_url_or_exit(settings_or_exit())
    try:
        found = asyncio.run(migrate.current(url))
    except DATABASE_ERRORS as error:
        fail(_away(error), os.EX_UNAVAILABLE)
    if as_json:
        typer.echo(json.dumps({"current": found, "head": migrate.head()}))
    else:
        typer.echo(f"{found or 'nothing'} (this version needs {migrate.head()})")
    if found != migrate.head():
        raise typer.Exit(1)


@app.command("backup")
def backup(file: Annotated[Path, typer.Argument(help="Where to; must not be there yet.")]) -> None:
    """Copy the embedded database (SQLite) as it is at one moment, while it is in use."""
    parsed = async_url(database_url_or_exit(settings_or_exit()))
    if parsed.get_backend_name() != "sqlite":
        fail("This database is PostgreSQL: use pg_dump, as docs/operations/backup.md shows.", os.EX_USAGE)
    source = Path(str(parsed.database))
    if not source.is_file():
        fail(f"There is no database at {source}.", os.EX_NOINPUT)
    try:
        # Readable by its owner alone: it holds digests of keys, and what people asked.
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        copy_sqlite(source, file)
    except OSError as error:
        fail(f"{file}: {error.strerror}.", os.EX_CANTCREAT)
    except sqlite3.Error as error:
        file.unlink(missing_ok=True)
        fail(f"The copy failed: {error}.", os.EX_IOERR)
    typer.echo(f"{source} is copied to {file}.")


def copy_sqlite(source: Path, file: Path) -> None:
    """Whole and of one moment, whoever writes meanwhile. Raises sqlite3.Error."""
    with closing(sqlite3.connect(source, timeout=30)) as open_one, closing(sqlite3.connect(file)) as copy:
        open_one.backup(copy)
        # The copy has the journal mode of the source; what is kept is one file.
        copy.execute("PRAGMA journal_mode = DELETE")


@app.command("wait")
def wait(
    seconds: Annotated[float, typer.Option(min=0, help="How long, at most.")] = 60.0,
) -> None:
    """Wait until the database is at what this version needs, or past it, as after a roll back.

    Exits 1 where it is still behind then; 0 where it cannot be reached: processes start without it too.
    """
    url = database_url_or_exit(settings_or_exit())
    give_up_at = time.monotonic() + seconds
    said = False
    while True:
        away: BaseException | None = None
        found = None
        try:
            found = asyncio.run(migrate.current(url))
        except DATABASE_ERRORS as error:
            away = error
        if away is None and not migrate.is_behind(found):
            typer.echo(_stands(found))
            return
        if time.monotonic() >= give_up_at:
            break
        if not said:
            typer.echo(_away(away) if away is not None else _stands(found))
            said = True
        time.sleep(_LOOK_SECONDS)
    if away is not None:
        typer.echo(f"{_away(away)} It is not waited for any longer.", err=True)
        return
    fail(_stands(found), 1)


def _stands(found: str | None) -> str:
    return f"The database is at {found or 'nothing'}; this version needs {migrate.head()}."


def _away(error: BaseException) -> str:
    return f"The database cannot be reached: {type(error).__name__}."
