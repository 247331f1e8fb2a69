"""Settings for a command, or one line that says what is wrong with them and exit code 78."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, NoReturn

import typer

from cli import production
from cli.problems import Problem, problems, read_settings, routing_problems
from shared import faultpoints
from shared.auth.api_keys import MIN_PEPPER_BYTES
from shared.db.engine import UnusableDatabaseUrl, async_url, url_of
from shared.settings import Settings

PEPPER_FILE: Final = "key-pepper"
"""Where `headrace up` keeps the pepper it made, in the data folder."""
MASTER_KEY_FILE: Final = "master-key"
"""The same of the master key's private half."""


def fail(message: str, code: int = os.EX_CONFIG) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def settings_or_exit() -> Settings:
    found = read_settings()
    if isinstance(found, Settings):
        return found
    fail("\n".join(problem.sentence for problem in found))


def check_or_exit(settings: Settings, *, checks_keys: bool = False) -> None:
    """What a process would otherwise trip over once it runs; in production, what it must not run with.

    checks_keys: whether it is one that needs the pepper
    """
    _fail_at_first(problems(settings, checks_keys=checks_keys))
    if settings.environment == "production" and settings.redis_url is not None:
        refused = production.redis_complaint(settings.redis_url.get_secret_value())
        if refused is not None:
            fail(refused)
    faultpoints.arm(settings.faultpoints)


def check_routing_or_exit(settings: Settings, *, scripted: bool = False) -> None:
    """Of the processes that read the routing file; `scripted`: see cli/problems.py."""
    _fail_at_first(routing_problems(settings, scripted=scripted))


def database_url_or_exit(settings: Settings) -> str:
    url = url_of(settings)
    try:
        async_url(url)
    except UnusableDatabaseUrl as unusable:
        fail(f"DATABASE_URL: {unusable}")
    return url


def pepper_or_exit(settings: Settings) -> bytes:
    """The setting; on the embedded database, what `headrace up` made when it is not set."""
    if settings.key_pepper is not None:
        pepper = settings.key_pepper.get_secret_value().encode()
    elif settings.database_url is None and (settings.data_dir / PEPPER_FILE).is_file():
        pepper = (settings.data_dir / PEPPER_FILE).read_text().strip().encode()
    else:
        fail(
            "HEADRACE_KEY_PEPPER is not set: API keys and webhooks need a secret of at least "
            f"{MIN_PEPPER_BYTES} bytes."
        )
    if len(pepper) < MIN_PEPPER_BYTES:
        fail(f"HEADRACE_KEY_PEPPER is too short: it takes at least {MIN_PEPPER_BYTES} bytes.")
    return pepper


def _fail_at_first(found: Iterable[Problem]) -> None:
    for problem in found:
        fail(problem.sentence)
