"""Settings for a command, or one line that says what is wrong with them and exit code 78."""

from __future__ import annotations

import json
import os
from typing import Final, NoReturn

import typer
from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic_settings import SettingsError

from cli import production
from shared import faultpoints
from shared.auth.api_keys import MIN_PEPPER_BYTES
from shared.auth.passwords import check_form
from shared.auth.sessions import normal_email
from shared.crypto import MasterKeyInvalid, Opener, Sealer
from shared.db.engine import UnusableDatabaseUrl, async_url, url_of
from shared.egress.rules import EgressFailed, EgressRules, check_url
from shared.errors import InvalidRequest
from shared.providers.catalogue import Catalogue
from shared.providers.catalogue_file import CatalogueFileInvalid
from shared.providers.custom import ProvidersFileInvalid
from shared.providers.registry import Registry
from shared.queue.redis_url import UnusableRedisUrl, read_url
from shared.routing.routing_file import RoutingFileInvalid
from shared.routing.watch import RoutingWatch
from shared.settings import Settings, environment_variable, load_settings

PEPPER_FILE: Final = "key-pepper"
"""Where `headrace up` keeps the pepper it made, in the data folder."""
MASTER_KEY_FILE: Final = "master-key"
"""The same of the master key's private half."""


def fail(message: str, code: int = os.EX_CONFIG) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def settings_or_exit() -> Settings:
    try:
        return load_settings()
    except ValidationError as invalid:
        fail("\n".join(f"{_variable(error['loc'])}: {error['msg']}" for error in invalid.errors()))
    except SettingsError:
        fail(f'{" or ".join(_not_json()) or "A setting"}: must be JSON, such as ["a", "b"] for a list.')


def check_or_exit(settings: Settings, *, checks_keys: bool = False) -> None:
    """What a process would otherwise trip over once it runs; in production, what it must not run with.

    checks_keys: whether it is one that needs the pepper
    """
    database_url_or_exit(settings)
    if settings.redis_url is not None:
        try:
            read_url(settings.redis_url.get_secret_value())
        except UnusableRedisUrl as unusable:
            fail(f"REDIS_URL: {unusable}")
    try:
        registry = Registry.from_settings(settings)
        Catalogue.load(settings.catalogue_file, providers=registry.profiles)
    except ProvidersFileInvalid as invalid:
        fail(f"HEADRACE_PROVIDERS_FILE: {' '.join(str(invalid).split())}")
    except CatalogueFileInvalid as invalid:
        fail(f"HEADRACE_CATALOGUE_FILE: {' '.join(str(invalid).split())}")
    except ValueError as invalid:
        fail(" ".join(str(invalid).split()))
    _check_master_keys(settings)
    _check_issuers_or_exit(settings)
    if settings.environment == "production":
        refused = production.complaint(settings, registry, checks_keys=checks_keys)
        if refused is None and settings.redis_url is not None:
            refused = production.redis_complaint(settings.redis_url.get_secret_value())
        if refused is not None:
            fail(refused)
    _check_first_operator_or_exit(settings)
    try:
        faultpoints.arm(settings.faultpoints)
    except ValueError:
        fail("FAULTPOINTS: must be <point>@<number>, separated by commas.")


def _check_master_keys(settings: Settings) -> None:
    for variable, private in (
        ("HEADRACE_MASTER_KEY", settings.master_key),
        ("HEADRACE_MASTER_KEY_BEFORE", settings.master_key_before),
    ):
        if private is not None:
            try:
                Opener(private.get_secret_value())
            except MasterKeyInvalid as invalid:
                fail(f"{variable}: {invalid}")
    if settings.master_public_key is not None:
        try:
            Sealer(settings.master_public_key)
        except MasterKeyInvalid as invalid:
            fail(f"HEADRACE_MASTER_PUBLIC_KEY: {invalid}")


def check_routing_or_exit(settings: Settings, *, scripted: bool = False) -> None:
    """Of the processes that read the routing file: others may not know every provider it names.

    `scripted`: every provider will be the scripted one, at an address yet to be found.
    """
    registry = Registry.from_settings(settings)
    if scripted:
        registry = Registry(
            profile.with_base_url("http://scripted") for profile in registry.profiles.values()
        )
    catalogue = Catalogue.load(settings.catalogue_file, providers=registry.profiles)
    try:
        RoutingWatch(settings.routing_file, registry, catalogue, settings.default_provider)
    except RoutingFileInvalid as invalid:
        fail(f"HEADRACE_ROUTING_FILE: {' '.join(str(invalid).split())}")


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


def _check_first_operator_or_exit(settings: Settings) -> None:
    if (settings.admin_email is None) != (settings.admin_password is None):
        fail("HEADRACE_ADMIN_EMAIL and HEADRACE_ADMIN_PASSWORD go together: set both or none.")
    if settings.admin_email is None or settings.admin_password is None:
        return
    try:
        normal_email(settings.admin_email)
        check_form(settings.admin_password.get_secret_value())
    except InvalidRequest as invalid:
        # `email: must be an email address` and the like.
        name, _, problem = invalid.message.partition(":")
        fail(f"HEADRACE_ADMIN_{name.upper()}:{problem}")


def _check_issuers_or_exit(settings: Settings) -> None:
    """A key set that would never be fetched would only be missed at somebody's login."""
    rules = EgressRules.of(settings.egress, production=settings.environment == "production")
    names = [issuer.issuer for issuer in settings.accounts.issuers]
    if len(set(names)) < len(names):
        fail("HEADRACE_ACCOUNTS__ISSUERS: each issuer can be there once.")
    for number, issuer in enumerate(settings.accounts.issuers, 1):
        if issuer.account is None and issuer.account_claim is None:
            fail(f"HEADRACE_ACCOUNTS__ISSUERS: number {number} needs account or account_claim.")
        try:
            check_url(issuer.jwks_url, rules)
        except EgressFailed:
            fail(
                f"HEADRACE_ACCOUNTS__ISSUERS: the jwks_url of number {number} must be https:// at a public "
                "host, or its host be named in HEADRACE_EGRESS__PRIVATE_HOSTS."
            )


def _not_json() -> list[str]:
    """Variables of lists and groups that do not hold JSON."""
    names = []
    for group, field in Settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            names.append(f"HEADRACE_{group}".upper())
            inner = type(field.default).model_fields.items()
            names += [
                f"HEADRACE_{group}__{name}".upper() for name, f in inner if isinstance(f.default, tuple)
            ]
    return [name for name in names if (value := environment_variable(name)) and not _is_json(value)]


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


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
