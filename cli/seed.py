"""`headrace seed`: an account to try limits with. Again is harmless."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer

from cli import stores
from cli.configuration import database_url_or_exit, pepper_or_exit, settings_or_exit
from cli.keys import create_key
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import accounts, api_keys
from shared.domain.allowance import NO_LIMITS, Tier
from shared.domain.grants import Grant
from shared.domain.job import Lane
from shared.domain.roles import Role
from shared.ids import AccountId

ACCOUNT: Final = AccountId("demo")
KEY_NAME: Final = "seed"


def seed_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make the account `demo` of the standard tier, under its default limits, and a key once."""
    settings = settings_or_exit()
    url, pepper = database_url_or_exit(settings), pepper_or_exit(settings)

    async def work() -> str | None:
        clock = SystemClock()
        async with stores.database(settings, url) as database:
            async with writing(database) as connection:
                await accounts.ensure(connection, ACCOUNT, name="Demo", at=clock.now())
                await accounts.set_allowance(connection, ACCOUNT, tier=Tier.STANDARD, limits=NO_LIMITS)
                usable = [k for k in await api_keys.list_of(connection, ACCOUNT) if k.is_usable(clock.now())]
            if any(key.name == KEY_NAME for key in usable):
                return None
            grant = Grant(Role.SERVICE, None, None, None, Lane.INTERACTIVE)
            token, _ = await create_key(
                database, pepper, account=ACCOUNT, name=KEY_NAME, clock=clock, grant=grant
            )
            return token

    token = stores.run(work())
    if as_json:
        typer.echo(json.dumps({"account": ACCOUNT, "key": token}))
        return
    typer.echo(f"Account {ACCOUNT}, tier standard.", err=True)
    typer.echo("Its key was shown when it was made." if token is None else token)
