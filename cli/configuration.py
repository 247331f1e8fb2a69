"""Settings for a command, or one line that says what is wrong with them and exit code 78."""

from __future__ import annotations

import os
from typing import Final, NoReturn

import typer
from pydantic import AliasChoices, ValidationError

from shared.auth.api_keys import MIN_PEPPER_BYTES
from shared.db.engine import UnusableDatabaseUrl, async_url, url_of
from shared.settings import Settings, load_settings

PEPPER_FILE: Final = "key-pepper"
"""Where `headrace up` keeps the pepper it made, in the data folder."""


def fail(message: str, code: int = os.EX_CONFIG) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def settings_or_exit() -> Settings:
    try:
        return load_settings()
    except ValidationError as invalid:
        fail("\n".join(f"{_variable(error['loc'])}: {error['msg']}" for error in invalid.errors()))


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
        fail(f"HEADRACE_KEY_PEPPER is not set: API keys need a secret of at least {MIN_PEPPER_BYTES} bytes.")
    if len(pepper) < MIN_PEPPER_BYTES:
        fail(f"HEADRACE_KEY_PEPPER is too short: it takes at least {MIN_PEPPER_BYTES} bytes.")
    return pepper


def _variable(loc: tuple[int | str, ...]) -> str:
    """The environment variable of a setting, with the other names it goes by."""
    name = "__".join(map(str, loc)).upper()
    if loc and loc[0] in Settings.model_fields:
        return f"HEADRACE_{name}"
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices) and name in alias.choices:
            return " or ".join(map(str, alias.choices))
    return name
