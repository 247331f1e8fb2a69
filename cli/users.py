"""`headrace users`: people, for whoever runs the broker. The first operator is made here."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cli import stores
from cli.configuration import database_url_or_exit, fail, settings_or_exit
from cli.table import print_table
from shared.auth.passwords import Passwords, check_form
from shared.auth.people import change_user, create_user
from shared.auth.session_end import EndNotAnnounced, end_all
from shared.auth.sessions import normal_email
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import accounts, audit, memberships, users
from shared.db.repositories.users import EmailTaken, UserRecord
from shared.domain.roles import Role
from shared.errors import InvalidRequest, NotFound
from shared.ids import UserId

app = typer.Typer(no_args_is_help=True)

Who = Annotated[str, typer.Argument(metavar="USER", help="The user's email, or id as listed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class _Change:
    """What is None stays."""

    act: str
    disabled: bool | None = None
    operator: bool | None = None
    password_hash: str | None = None


@app.command("create")
def create_command(
    email: Annotated[str, typer.Argument(help="What the user logs in with.")],
    name: Annotated[str, typer.Option(help="What to call the user. Default: the email.")] = "",
    account: Annotated[
        str | None,
        typer.Option(help="The account it is a member of; made when new. Default: its own."),
    ] = None,
    role: Annotated[Role, typer.Option(help="In that account.")] = Role.ADMIN,
    operator: Annotated[bool, typer.Option("--operator", help="Runs the broker.")] = False,
    as_json: Json = False,
) -> None:
    """Create a user. The password is asked for, or is the first line of standard input."""
    settings = settings_or_exit()
    url = database_url_or_exit(settings)
    owner = None if account is None else stores.account_or_exit(account)
    called = name or email
    if not called.isprintable() or len(called) > 200:
        fail("--name: takes 1 to 200 printable characters.", os.EX_USAGE)
    try:
        normal = normal_email(email)
    except InvalidRequest as invalid:
        fail(invalid.message, os.EX_USAGE)
    password = _password_or_exit()

    async def work() -> tuple[UserRecord, str]:
        hashed, now = await _hashed(password), SystemClock().now()
        async with stores.database(settings, url) as database, writing(database) as connection:
            if owner is not None:
                await accounts.ensure(connection, owner, name=owner, at=now)
            record, into = await create_user(
                connection, normal, called, hashed, now=now, account=owner, role=role, operator=operator
            )
            await audit.record(
                connection,
                at=now,
                account=into,
                actor=stores.ACTOR,
                act="user.created",
                object_id=record.id,
                details={"role": role, "operator": operator},
            )
            return record, into

    try:
        record, into = stores.run(work())
    except EmailTaken as taken:
        fail(taken.message, 1)
    if as_json:
        typer.echo(json.dumps({**_shown(record), "accounts": [into]}))
    else:
        typer.echo(f"{record.id}, {record.email}, {role.value} of account {into}.")


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List users, with the accounts they are members of."""
    settings = settings_or_exit()
    url = database_url_or_exit(settings)

    async def work() -> list[tuple[UserRecord, list[str]]]:
        found: list[tuple[UserRecord, list[str]]] = []
        async with stores.database(settings, url) as database, database.connect() as connection:
            while page := await users.list_for_operator(
                connection, after=found[-1][0].id if found else "", limit=500
            ):
                its = await memberships.accounts_of_all(connection, [record.id for record in page])
                found += [(record, list(its.get(record.id, ()))) for record in page]
        return found

    records = stores.run(work())
    if as_json:
        typer.echo(json.dumps([{**_shown(record), "accounts": its} for record, its in records]))
        return
    rows = [
        (
            record.id,
            record.email,
            "disabled" if record.disabled_at else "operator" if record.is_operator else "user",
            f"{record.created_at:%Y-%m-%d}",
            " ".join(its),
        )
        for record, its in records
    ]
    print_table(("ID", "EMAIL", "STATE", "CREATED", "ACCOUNTS"), rows)


@app.command("disable")
def disable_command(user: Who, as_json: Json = False) -> None:
    """Shut a user out: sessions end, keys are refused until it is enabled again."""
    _change_or_exit(user, _Change("user.disabled", disabled=True), as_json=as_json)


@app.command("enable")
def enable_command(user: Who, as_json: Json = False) -> None:
    """Let a disabled user log in again; its keys are good again."""
    _change_or_exit(user, _Change("user.enabled", disabled=False), as_json=as_json)


@app.command("operator")
def operator_command(
    user: Who,
    off: Annotated[bool, typer.Option("--off", help="Take it away again.")] = False,
    as_json: Json = False,
) -> None:
    """Make a user an operator, who may do what is of no account."""
    act = "user.operator-taken" if off else "user.operator-given"
    _change_or_exit(user, _Change(act, operator=not off), as_json=as_json)


@app.command("password")
def password_command(user: Who, as_json: Json = False) -> None:
    """Give a user a new password, asked for as in `create`; its sessions end."""
    password = _password_or_exit()
    hashed = stores.run(_hashed(password))
    _change_or_exit(user, _Change("user.password-changed", password_hash=hashed), as_json=as_json)


def _change_or_exit(user: str, change: _Change, *, as_json: bool) -> None:
    settings = settings_or_exit()
    url = database_url_or_exit(settings)

    async def work() -> tuple[UserRecord, bool]:
        async with stores.database(settings, url) as database:
            record = await _changed(database, user, change)
            redis_url = stores.redis_url_of(settings)
            if redis_url is None:
                return record, False
            async with stores.link_or_exit(redis_url) as link:
                await end_all(database, link, record.id, clock=SystemClock(), settings=settings.auth)
            return record, True

    try:
        record, announced = stores.run(work())
    except NotFound as missing:
        fail(f"{missing.message} They are listed by: headrace users list", 1)
    except EndNotAnnounced:
        fail("It is stored, but Redis could not be told. Run this again to tell it.", os.EX_TEMPFAIL)
    if as_json:
        typer.echo(json.dumps({**_shown(record), "announced": announced}))
        return
    typer.echo(f"{record.email}: {change.act.removeprefix('user.')}.")
    if not announced:
        seconds = settings.auth.key_cache_seconds
        typer.echo(f"REDIS_URL is not set: running processes follow within {seconds:.0f} s.", err=True)


async def _changed(database: AsyncEngine, user: str, change: _Change) -> UserRecord:
    now = SystemClock().now()
    async with database.connect() as connection:
        user_id = await _id_of(connection, user)
    async with writing(database) as connection:
        record = await change_user(
            connection,
            user_id,
            now=now,
            disabled=change.disabled,
            operator=change.operator,
            password_hash=change.password_hash,
        )
        await audit.record(
            connection, at=now, account=None, actor=stores.ACTOR, act=change.act, object_id=user_id
        )
    return record


async def _id_of(connection: AsyncConnection, user: str) -> UserId:
    if "@" not in user:
        return UserId(user)
    found = await users.find_by_email(connection, user.strip())
    if found is None:
        raise NotFound("There is no such user.")
    return found.id


def _password_or_exit() -> str:
    """Never an argument: those are seen by everybody on the machine, and kept by shells."""
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    try:
        check_form(password)
    except InvalidRequest as invalid:
        fail(invalid.message, os.EX_USAGE)
    return password


async def _hashed(password: str) -> str:
    passwords = Passwords(slots=1, queue=0)
    try:
        return await passwords.hash(password)
    finally:
        passwords.close()


def _shown(record: UserRecord) -> dict[str, object]:
    """What may be seen of a user: not the hash of its password."""
    return {
        "id": record.id,
        "email": record.email,
        "name": record.name,
        "operator": record.is_operator,
        "created_at": record.created_at.isoformat(),
        "disabled_at": record.disabled_at and record.disabled_at.isoformat(),
    }
