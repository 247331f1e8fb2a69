"""`headrace keys`: issue API keys, list them, revoke them."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from cli import data_folder
from cli.configuration import database_url_or_exit, fail, pepper_or_exit, settings_or_exit
from cli.table import print_table
from shared.auth.api_keys import digest, mint, parse
from shared.auth.revocation import RevocationNotAnnounced, revoke, revoke_row
from shared.clock import Clock, SystemClock
from shared.db import migrate
from shared.db.engine import DATABASE_ERRORS, create_engine, writing
from shared.db.repositories import accounts, api_keys
from shared.db.repositories.api_keys import ApiKeyRecord
from shared.domain.job import Lane
from shared.errors import NotFound
from shared.ids import AccountId, ApiKeyId
from shared.queue.links import open_link
from shared.queue.redis_link import RedisLink
from shared.queue.redis_url import UnusableRedisUrl
from shared.settings import Settings

app = typer.Typer(no_args_is_help=True)

DEFAULT_ACCOUNT: Final = AccountId("default")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REDIS_SECONDS: Final = 5.0
_T = TypeVar("_T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("create")
def create_command(
    name: Annotated[str, typer.Option(help="What the key is for, to recognise it by.")],
    account: Annotated[str, typer.Option(help="The account it belongs to; made when new.")] = DEFAULT_ACCOUNT,
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires. Default: never.")
    ] = None,
    priority: Annotated[Lane, typer.Option(help="The highest lane its jobs may be in.")] = Lane.INTERACTIVE,
    as_json: Json = False,
) -> None:
    """Create an API key and print it, this once: what is stored of it does not give it back."""
    settings = settings_or_exit()
    url, pepper = database_url_or_exit(settings), pepper_or_exit(settings)
    if not name.strip() or not name.isprintable() or len(name) > 200:
        fail("--name: takes 1 to 200 printable characters.", os.EX_USAGE)
    clock = SystemClock()
    expires_at = None if expires_days is None else clock.now() + timedelta(days=expires_days)
    owner = _account_or_exit(account)

    async def work() -> tuple[str, ApiKeyRecord]:
        async with _database(settings, url) as database:
            return await create_key(
                database,
                pepper,
                account=owner,
                name=name,
                clock=clock,
                expires_at=expires_at,
                lane=priority,
            )

    token, record = _run(work())
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
    owner = None if account is None else _account_or_exit(account)

    async def work() -> list[ApiKeyRecord]:
        async with _database(settings, url) as database, database.connect() as connection:
            if owner is None:
                return await api_keys.list_for_operator(connection)
            return await api_keys.list_of(connection, owner)

    records = _run(work())
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
        async with _database(settings, url) as database:
            redis_url = _redis_url(settings)
            if redis_url is None:
                await revoke_row(database, ApiKeyId(key_id), clock=SystemClock())
                return False
            async with _link_or_exit(redis_url) as link:
                await revoke(database, link, ApiKeyId(key_id), clock=SystemClock(), settings=settings.auth)
            return True

    try:
        announced = _run(work())
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


async def create_key(
    database: AsyncEngine,
    pepper: bytes,
    *,
    account: AccountId,
    name: str,
    clock: Clock,
    expires_at: datetime | None = None,
    lane: Lane = Lane.INTERACTIVE,
) -> tuple[str, ApiKeyRecord]:
    """A new key and its record, committed; the account is made when new."""
    token, record = mint(
        pepper, account=account, name=name, now=clock.now(), expires_at=expires_at, created_by="cli"
    )
    record = replace(record, lane=lane)
    async with writing(database) as connection:
        await accounts.ensure(connection, account, name=account, at=clock.now())
        await api_keys.create(connection, record)
    return token, record


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


@asynccontextmanager
async def _database(settings: Settings, url: str) -> AsyncIterator[AsyncEngine]:
    """The database, migrated: the embedded one by us, any other by whoever runs it."""
    if settings.database_url is None:
        data_folder.prepare(settings.data_dir)
        await migrate.upgrade(url)
    elif await migrate.current(url) != migrate.head():
        fail("The database is not at this version's revision. Run: headrace db upgrade")
    engine = create_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


def _redis_url(settings: Settings) -> str | None:
    """The setting; on the embedded database, that of the `headrace up` that runs on the data folder."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return data_folder.running_redis(settings.data_dir) if settings.database_url is None else None


@asynccontextmanager
async def _link_or_exit(url: str) -> AsyncIterator[RedisLink]:
    try:
        link = open_link(url, timeout=_REDIS_SECONDS)
    except UnusableRedisUrl as unusable:
        fail(f"REDIS_URL: {unusable}")
    try:
        yield link
    finally:
        await link.close()


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(work)
    except DATABASE_ERRORS as error:
        fail(f"The database cannot be reached: {type(error).__name__}.", os.EX_UNAVAILABLE)


def _account_or_exit(account: str) -> AccountId:
    if _ACCOUNT.fullmatch(account) is None:
        fail("--account: takes up to 64 letters, digits, '.', '_' and '-'.", os.EX_USAGE)
    return AccountId(account)


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
        "priority": record.lane.value,
        "created_at": record.created_at.isoformat(),
        "expires_at": record.expires_at and record.expires_at.isoformat(),
        "revoked_at": record.revoked_at and record.revoked_at.isoformat(),
    }
