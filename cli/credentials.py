"""`headrace credentials`: the accounts' own provider keys, and the master key they are sealed for."""

from __future__ import annotations

import asyncio
import os
from typing import Final

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from cli.configuration import check_or_exit, database_url_or_exit, fail, settings_or_exit
from shared.crypto import CannotOpen, Opener, Sealer, public_half
from shared.db import migrate
from shared.db.engine import DATABASE_ERRORS, create_engine, writing
from shared.db.repositories import provider_credentials
from shared.ids import CredentialId

app = typer.Typer(no_args_is_help=True)

_AT_ONCE: Final = 100


@app.callback()
def _commands() -> None:
    """A callback, so that the one command keeps its name."""


@app.command("rewrap")
def rewrap_command() -> None:
    """Seal every stored key for HEADRACE_MASTER_KEY that is sealed for HEADRACE_MASTER_KEY_BEFORE.

    The keys themselves are not decrypted. Stopped halfway, or run again, it goes on where it was.
    """
    settings = settings_or_exit()
    check_or_exit(settings)
    if settings.master_key is None:
        fail("HEADRACE_MASTER_KEY is not set: it is what the keys are to be sealed for.")
    private = settings.master_key.get_secret_value()
    before = settings.master_key_before
    opener = Opener(private, [] if before is None else [before.get_secret_value()])
    url = database_url_or_exit(settings)

    async def work() -> tuple[int, list[CredentialId]]:
        if await migrate.current(url) != migrate.head():
            fail("The database is not at this version's revision. Run: headrace db upgrade")
        database = create_engine(url)
        try:
            return await rewrap_all(database, opener, Sealer(public_half(private)))
        finally:
            await database.dispose()

    try:
        done, left = asyncio.run(work())
    except DATABASE_ERRORS as error:
        fail(f"The database cannot be reached: {type(error).__name__}.", os.EX_UNAVAILABLE)
    typer.echo(f"{done} rewrapped.")
    if left:
        fail(f"{len(left)} cannot be opened with these master keys: {', '.join(left)}", 1)


async def rewrap_all(database: AsyncEngine, opener: Opener, sealer: Sealer) -> tuple[int, list[CredentialId]]:
    """How many were rewrapped, and those that could not be. Each batch is committed by itself."""
    done, left, after = 0, [], CredentialId("")
    while True:
        async with writing(database) as connection:
            records = await provider_credentials.sealed_otherwise(
                connection, sealer.key_id, after=after, limit=_AT_ONCE
            )
            for record in records:
                try:
                    sealed = opener.rewrap(record.sealed, record.place, sealer)
                except CannotOpen:
                    left.append(record.id)
                    continue
                done += await provider_credentials.store_rewrapped(connection, record, sealed, sealer.key_id)
        if not records:
            return done, left
        after = records[-1].id
