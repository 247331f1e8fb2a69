"""The database and the Redis that a command works on, or one line that says why it cannot."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from cli import data_folder
from cli.configuration import fail
from shared.db import migrate
from shared.db.engine import DATABASE_ERRORS, create_engine
from shared.ids import AccountId
from shared.queue.links import open_link
from shared.queue.redis_link import RedisLink
from shared.queue.redis_url import UnusableRedisUrl
from shared.settings import Settings

ACTOR: Final = "command line"
"""Of what is done here, in the audit log."""
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REDIS_SECONDS: Final = 5.0
_T = TypeVar("_T")


@asynccontextmanager
async def database(settings: Settings, url: str) -> AsyncIterator[AsyncEngine]:
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


def redis_url_of(settings: Settings) -> str | None:
    """The setting; on the embedded database, that of the `headrace up` that runs on the data folder."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return data_folder.running_redis(settings.data_dir) if settings.database_url is None else None


@asynccontextmanager
async def link_or_exit(url: str) -> AsyncIterator[RedisLink]:
    try:
        link = open_link(url, timeout=_REDIS_SECONDS)
    except UnusableRedisUrl as unusable:
        fail(f"REDIS_URL: {unusable}")
    try:
        yield link
    finally:
        await link.close()


def run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(work)
    except DATABASE_ERRORS as error:
        fail(f"The database cannot be reached: {type(error).__name__}.", os.EX_UNAVAILABLE)


def account_or_exit(account: str) -> AccountId:
    if _ACCOUNT.fullmatch(account) is None:
        fail("--account: takes up to 64 letters, digits, '.', '_' and '-'.", os.EX_USAGE)
    return AccountId(account)
