"""`headrace db`: the database and its migrations."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated

import typer

from cli.configuration import database_url_or_exit, fail, settings_or_exit
from shared.db import migrate
from shared.db.engine import DATABASE_ERRORS

app = typer.Typer(no_args_is_help=True)

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


def _away(error: BaseException) -> str:
    return f"The database cannot be reached: {type(error).__name__}."
