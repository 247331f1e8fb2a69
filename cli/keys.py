"""`headrace keys`: issue API keys, list them, rotate them, revoke them."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Final

import typer
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cli import data_folder, stores
from cli.configuration import database_url_or_exit, fail, pepper_or_exit, settings_or_exit
from cli.table import print_table
from shared.auth.announcement import ChangeNotAnnounced, tell
from shared.auth.api_keys import digest, parse
from shared.auth.issuing import KeyIssuer, KeyNotRotated
from shared.auth.revocation import RevocationNotAnnounced, revoke, revoke_row
from shared.clock import Clock, SystemClock
from shared.db.engine import create_engine, writing
from shared.db.repositories import accounts, api_keys, audit, memberships, users
from shared.db.repositories.api_keys import ApiKeyRecord
from shared.domain.allowance import NO_LIMITS, Limits
from shared.domain.grants import Grant
from shared.domain.job import Lane
from shared.domain.roles import Permission, Role
from shared.errors import NotFound
from shared.ids import AccountId, ApiKeyId, UserId
from shared.money import MICRO_PER_USD

app = typer.Typer(no_args_is_help=True)

DEFAULT_ACCOUNT: Final = AccountId("default")

_SPEND: Final = "monthly_spend_usd"
_LIMIT_NAMES: Final = (*(f.name for f in fields(Limits) if f.name != "monthly_spend_micro_usd"), _SPEND)
_LIMITS_HELP: Final = f"Names: {', '.join(_LIMIT_NAMES)}."
_PLAIN: Final = Grant(Role.SERVICE, None, None, None, Lane.INTERACTIVE)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("create")
def create_command(
    name: Annotated[str, typer.Option(help="What the key is for, to recognise it by.")],
    account: Annotated[str, typer.Option(help="The account it belongs to; made when new.")] = DEFAULT_ACCOUNT,
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires. Default: never.")
    ] = None,
    priority: Annotated[Lane, typer.Option(help="The highest lane its jobs may be in.")] = Lane.INTERACTIVE,
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.SERVICE,
    user: Annotated[
        str | None, typer.Option(help="The email of the member it belongs to. Default: the account's own.")
    ] = None,
    scope: Annotated[
        list[Permission] | None, typer.Option(help="Narrow the role down to this; repeat for several.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this model, `provider/model` or bare, `*` at the end; repeat for several."),
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="Only this provider; repeat for several.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help=f"A limit of its own; repeat for several. {_LIMITS_HELP}"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create an API key and print it, this once: what is stored of it does not give it back."""
    settings = settings_or_exit()
    url, pepper = database_url_or_exit(settings), pepper_or_exit(settings)
    if not name.strip() or not name.isprintable() or len(name) > 200:
        fail("--name: takes 1 to 200 printable characters.", os.EX_USAGE)
    clock = SystemClock()
    expires_at = None if expires_days is None else clock.now() + timedelta(days=expires_days)
    owner, limits = stores.account_or_exit(account), _limits_or_exit(limit or [])
    grant = Grant(
        role,
        None if not scope else frozenset(scope),
        tuple(model) if model else None,
        tuple(provider) if provider else None,
        priority,
    )

    async def work() -> tuple[str, ApiKeyRecord]:
        async with stores.database(settings, url) as database:
            return await create_key(
                database,
                pepper,
                account=owner,
                name=name,
                clock=clock,
                expires_at=expires_at,
                grant=grant,
                limits=limits,
                email=user,
            )

    try:
        token, record = stores.run(work())
    except NotFound as missing:
        fail(missing.message, 1)
    if as_json:
        typer.echo(json.dumps({"key": token, **_shown(record)}))
    else:
        typer.echo(f"{record.id}, of account {record.account_id}. The key is shown this once:", err=True)
        typer.echo(token)


@app.command("list")
def list_command(
    account: Annotated[str | None, typer.Option(help="Only this account's. Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """List API keys, newest first."""
    settings = settings_or_exit()
    url = database_url_or_exit(settings)
    owner = None if account is None else stores.account_or_exit(account)

    async def work() -> list[ApiKeyRecord]:
        async with stores.database(settings, url) as database, database.connect() as connection:
            if owner is None:
                return await api_keys.list_for_operator(connection)
            return await api_keys.list_of(connection, owner)

    records = stores.run(work())
    if as_json:
        typer.echo(json.dumps([_shown(record) for record in records]))
        return
    now = SystemClock().now()
    rows = [
        (
            record.id,
            record.account_id,
            f"{record.prefix}...{record.last4}",
            _state(record, now),
            f"{record.created_at:%Y-%m-%d}",
            record.name,
        )
        for record in records
    ]
    print_table(("ID", "ACCOUNT", "KEY", "STATE", "CREATED", "NAME"), rows)


@app.command("revoke")
def revoke_command(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, key_... as listed.")],
    as_json: Json = False,
) -> None:
    """Revoke an API key, in every running process at once when REDIS_URL is set or `headrace up` runs."""
    settings = settings_or_exit()
    url = database_url_or_exit(settings)

    async def work() -> bool:
        async with stores.database(settings, url) as database:
            redis_url = stores.redis_url_of(settings)
            if redis_url is None:
                await revoke_row(database, ApiKeyId(key_id), clock=SystemClock())
                return False
            async with stores.link_or_exit(redis_url) as link:
                await revoke(database, link, ApiKeyId(key_id), clock=SystemClock(), settings=settings.auth)
            return True

    try:
        announced = stores.run(work())
    except NotFound as missing:
        fail(f"{missing.message} Ids are listed by: headrace keys list", 1)
    except RevocationNotAnnounced as pending:
        fail(pending.message, os.EX_TEMPFAIL)
    if as_json:
        typer.echo(json.dumps({"id": key_id, "revoked": True, "announced": announced}))
        return
    typer.echo(f"{key_id} is revoked.")
    if not announced:
        seconds = settings.auth.key_cache_seconds
        typer.echo(
            f"REDIS_URL is not set: running processes may accept it for up to {seconds:.0f} s.", err=True
        )


@app.command("rotate")
def rotate_command(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, key_... as listed.")],
    grace_seconds: Annotated[
        int, typer.Option(min=0, max=2_592_000, help="How long the old key is still good.")
    ] = 3600,
    as_json: Json = False,
) -> None:
    """Print a new key that may do what the old one may, which ends after its grace."""
    settings = settings_or_exit()
    url, pepper = database_url_or_exit(settings), pepper_or_exit(settings)
    clock = SystemClock()

    async def work() -> tuple[str, ApiKeyRecord, bool]:
        async with stores.database(settings, url) as database:
            token, record = await rotate_key(
                database, pepper, ApiKeyId(key_id), clock=clock, grace=timedelta(seconds=grace_seconds)
            )
            redis_url = stores.redis_url_of(settings)
            if redis_url is None:
                return token, record, False
            async with stores.link_or_exit(redis_url) as link:
                try:
                    await tell(database, link, [record.account_id], clock=clock, settings=settings.auth)
                except ChangeNotAnnounced:
                    # The new key is shown whatever happens: nothing gives it back.
                    return token, record, False
            return token, record, True

    try:
        token, record, announced = stores.run(work())
    except NotFound as missing:
        fail(f"{missing.message} Ids are listed by: headrace keys list", 1)
    except KeyNotRotated as refused:
        fail(refused.message, 1)
    if as_json:
        typer.echo(json.dumps({"key": token, **_shown(record), "announced": announced}))
        return
    typer.echo(f"{record.id} takes the place of {key_id}. The key is shown this once:", err=True)
    typer.echo(token)
    if not announced:
        seconds = settings.auth.key_cache_seconds
        typer.echo(
            f"Redis could not be told: running processes may accept the old one for {seconds:.0f} s longer.",
            err=True,
        )


async def rotate_key(
    database: AsyncEngine, pepper: bytes, key_id: ApiKeyId, *, clock: Clock, grace: timedelta
) -> tuple[str, ApiKeyRecord]:
    """The new key and its record, committed. Raises NotFound or KeyNotRotated."""
    now = clock.now()
    async with database.connect() as connection:
        known = await api_keys.find_for_operator(connection, key_id)
    if known is None:
        raise NotFound("There is no such API key.")
    async with writing(database) as connection:
        await accounts.hold(connection, known.account_id)
        old = await api_keys.find_for_operator(connection, key_id) or known
        token, record = await KeyIssuer(pepper).rotate(
            connection, old, now=now, grace=grace, created_by="cli"
        )
        await audit.record(
            connection,
            at=now,
            account=old.account_id,
            actor=stores.ACTOR,
            act="api-key.rotated",
            object_id=old.id,
            details={"successor": record.id},
        )
    return token, record


async def create_key(
    database: AsyncEngine,
    pepper: bytes,
    *,
    account: AccountId,
    name: str,
    clock: Clock,
    expires_at: datetime | None = None,
    grant: Grant = _PLAIN,
    limits: Limits = NO_LIMITS,
    email: str | None = None,
) -> tuple[str, ApiKeyRecord]:
    """A new key and its record, committed; the account is made when new. `email`: of the member it is for.

    Raises NotFound where the account has no such member.
    """
    now = clock.now()
    async with writing(database) as connection:
        await accounts.ensure(connection, account, name=account, at=now)
        user_id = None if email is None else await _member(connection, account, email)
        token, record = await KeyIssuer(pepper).issue(
            connection,
            account,
            grant,
            name=name,
            now=now,
            user_id=user_id,
            created_by="cli",
            expires_at=expires_at,
            limits=limits,
        )
        await audit.record(
            connection,
            at=now,
            account=account,
            actor=stores.ACTOR,
            act="api-key.created",
            object_id=record.id,
            details={"name": name},
        )
    return token, record


async def _member(connection: AsyncConnection, account: AccountId, email: str) -> UserId:
    found = await users.find_by_email(connection, email.strip())
    if found is None or await memberships.find(connection, account, found.id) is None:
        raise NotFound("The account has no member with this email.")
    return found.id


async def ensure_key(database_url: str, pepper: str, file: Path) -> str:
    """The key kept in `file` if it is still good, else a new one of the default account, kept there."""
    secret, clock = pepper.encode(), SystemClock()
    kept = _read(file)
    database = create_engine(database_url)
    try:
        if parse(kept) is not None:
            async with database.connect() as connection:
                record = await api_keys.find_by_digest(connection, digest(secret, kept))
            if record is not None and record.is_usable(clock.now()):
                return kept
        token, _ = await create_key(
            database, secret, account=DEFAULT_ACCOUNT, name="headrace up", clock=clock
        )
    finally:
        await database.dispose()
    _write(file, token)
    return token


def _read(file: Path) -> str:
    return file.read_text().strip() if file.is_file() else ""


def _write(file: Path, token: str) -> None:
    data_folder.write_private(file, token + "\n")


def _limits_or_exit(written: list[str]) -> Limits:
    found: dict[str, int] = {}
    for each in written:
        name, _, number = each.partition("=")
        if name == _SPEND:
            found["monthly_spend_micro_usd"] = _micro_or_exit(number)
            continue
        if name not in _LIMIT_NAMES or not number.isdecimal() or not 1 <= int(number) <= 10**12:
            fail(f"--limit: takes NAME=NUMBER. {_LIMITS_HELP}", os.EX_USAGE)
        found[name] = int(number)
    if ("window_requests" in found) != ("window_seconds" in found):
        fail("--limit: window_requests goes with window_seconds.", os.EX_USAGE)
    return Limits(**found)


def _micro_or_exit(dollars: str) -> int:
    try:
        micro = Decimal(dollars) * MICRO_PER_USD
    except InvalidOperation:
        micro = Decimal(0)
    # What is no number compares as nothing does.
    if not (micro.is_finite() and 1 <= micro <= 10**12):
        fail(f"--limit {_SPEND}: takes dollars, such as 20 or 0.5.", os.EX_USAGE)
    return int(micro)


def _state(record: ApiKeyRecord, now: datetime) -> str:
    if record.revoked_at is not None:
        return "revoked"
    return "active" if record.is_usable(now) else "expired"


def _shown(record: ApiKeyRecord) -> dict[str, object]:
    """What may be seen of a key: not its digest."""
    return {
        "id": record.id,
        "account": record.account_id,
        "name": record.name,
        "prefix": record.prefix,
        "last4": record.last4,
        "user": record.user_id,
        "role": record.role.value,
        "scopes": record.scopes,
        "models": record.models,
        "providers": record.providers,
        "limits": record.limits.to_fields(),
        "priority": record.lane.value,
        "rotated_from": record.rotated_from,
        "created_at": record.created_at.isoformat(),
        "expires_at": record.expires_at and record.expires_at.isoformat(),
        "revoked_at": record.revoked_at and record.revoked_at.isoformat(),
    }
