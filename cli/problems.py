"""What is wrong with the settings: all that boot refuses, in its order, and what it would not notice.

Boot stops at the first (cli/configuration.py); `headrace config check` and `headrace doctor` tell all.
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic_settings import SettingsError

from cli import production
from cli.toml_lines import line_of
from shared import faultpoints
from shared.auth.passwords import check_form
from shared.auth.sessions import normal_email
from shared.crypto import MasterKeyInvalid, Opener, Sealer
from shared.db.engine import UnusableDatabaseUrl, async_url, url_of
from shared.egress.rules import EgressFailed, EgressRules, check_url
from shared.errors import InvalidRequest
from shared.providers.catalogue import Catalogue
from shared.providers.catalogue_file import CatalogueFileInvalid
from shared.providers.custom import ProvidersFileInvalid
from shared.providers.registry import Registry, providers_file
from shared.queue.redis_url import UnusableRedisUrl, read_url
from shared.routing.routing_file import RoutingFileInvalid
from shared.routing.watch import RoutingWatch
from shared.settings import Settings, environment_variable, load_settings, variables_set

NOT_SETTINGS: Final = frozenset({"HEADRACE_API_KEY", "HEADRACE_URL"})
"""Of commands that speak to a broker over HTTP."""


class ProcessKind(StrEnum):
    """What an environment is for, where each kind of process is given only what it needs."""

    API = "api"
    WORKER = "worker"
    SCHEDULER = "scheduler"


def needs_pepper(settings: Settings, process: ProcessKind | None) -> bool:
    """In production: elsewhere one is made."""
    return settings.environment == "production" and process is not ProcessKind.WORKER


InvalidFile = ProvidersFileInvalid | CatalogueFileInvalid | RoutingFileInvalid


@dataclass(frozen=True, slots=True)
class Problem:
    """`sentence` opens with the variable, and never holds its value."""

    sentence: str
    details: tuple[str, ...] = ()
    """Of a file: each thing that is wrong with it, behind its line where that can be told."""

    @property
    def variable(self) -> str:
        return self.sentence.split()[0].rstrip(":")

    def lines(self) -> list[str]:
        if not self.details:
            return [self.sentence]
        return [f"{self.variable}: {detail}" for detail in self.details]


def read_settings() -> Settings | list[Problem]:
    """The settings, or why there are none."""
    try:
        return load_settings()
    except ValidationError as invalid:
        return [Problem(f"{_variable(error['loc'])}: {error['msg']}") for error in invalid.errors()]
    except SettingsError:
        named = " or ".join(_not_json()) or "A setting"
        return [Problem(f'{named}: must be JSON, such as ["a", "b"] for a list.')]


def problems(settings: Settings, *, checks_keys: bool = False) -> Iterator[Problem]:
    """What a process would otherwise trip over once it runs; in production, what it must not run with.

    checks_keys: whether it is one that needs the pepper
    """
    yield from _urls(settings)
    registry: Registry | None = None
    try:
        registry = Registry.from_settings(settings)
        Catalogue.load(settings.catalogue_file, providers=registry.profiles)
    except (ProvidersFileInvalid, CatalogueFileInvalid) as invalid:
        yield _of_file(invalid, settings)
    except ValueError as invalid:
        yield Problem(" ".join(str(invalid).split()))
    yield from _master_keys(settings)
    yield from _issuers(settings)
    if settings.environment == "production" and registry is not None:
        for complaint in production.complaints(settings, registry, checks_keys=checks_keys):
            yield Problem(complaint)
    yield from _first_operator(settings)
    if not faultpoints.is_well_formed(settings.faultpoints):
        yield Problem("FAULTPOINTS: must be <point>@<number>, separated by commas.")


def routing_problems(settings: Settings, *, scripted: bool = False) -> Iterator[Problem]:
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
        yield _of_file(invalid, settings)


def all_problems(settings: Settings, process: ProcessKind | None = None) -> list[Problem]:
    """Of this kind of process; of every kind together."""
    found = list(problems(settings, checks_keys=needs_pepper(settings, process)))
    if not any(one.variable in {"HEADRACE_PROVIDERS_FILE", "HEADRACE_CATALOGUE_FILE"} for one in found):
        with contextlib.suppress(ValueError):  # a base URL that is none, found above
            found += routing_problems(settings)
    return found


def unknown_variables(settings: Settings | None) -> dict[str, str | None]:
    """HEADRACE_* variables that nothing reads, with the known name that is most like each."""
    known = {name.upper() for name in setting_names()} | NOT_SETTINGS
    if settings is not None:
        known |= _named_by_files(settings)
    groups = tuple(f"HEADRACE_{name}__".upper() for name in groups_of_settings())
    # Within a group that exists an unknown field is refused by the settings themselves.
    unknown = [
        name
        for name in variables_set()
        if name.upper().startswith("HEADRACE_")
        and name.upper() not in known
        and not name.upper().startswith(groups)
    ]
    return {name: next(iter(difflib.get_close_matches(name.upper(), known, 1)), None) for name in unknown}


def groups_of_settings() -> dict[str, BaseModel]:
    return {
        name: field.default
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, BaseModel)
    }


def names_of(field: str) -> list[str]:
    """The variables that a setting outside of groups is read from; the first that is set wins."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [str(alias or f"HEADRACE_{field.upper()}")]


def setting_names() -> Iterator[str]:
    groups = groups_of_settings()
    for field in Settings.model_fields:
        if field not in groups:
            yield from names_of(field)
            continue
        yield f"HEADRACE_{field.upper()}"
        yield from (f"HEADRACE_{field}__{name}".upper() for name in type(groups[field]).model_fields)


def _of_file(invalid: InvalidFile, settings: Settings) -> Problem:
    variable, path = next(
        (variable, path)
        for kind, variable, path in (
            (ProvidersFileInvalid, "HEADRACE_PROVIDERS_FILE", settings.providers_file),
            (CatalogueFileInvalid, "HEADRACE_CATALOGUE_FILE", settings.catalogue_file),
            (RoutingFileInvalid, "HEADRACE_ROUTING_FILE", settings.routing_file),
        )
        if isinstance(invalid, kind)
    )
    details = tuple(_placed(path, problem) for problem in invalid.problems)
    return Problem(f"{variable}: {' '.join(str(invalid).split())}", details)


def _placed(path: Path | None, problem: str) -> str:
    line = None if path is None else line_of(path, problem)
    place = str(path) if line is None else f"{path}, line {line}"
    return f"{place}: {' '.join(problem.split())}"


def _urls(settings: Settings) -> Iterator[Problem]:
    try:
        async_url(url_of(settings))
    except UnusableDatabaseUrl as unusable:
        yield Problem(f"DATABASE_URL: {unusable}")
    if settings.redis_url is not None:
        try:
            read_url(settings.redis_url.get_secret_value())
        except UnusableRedisUrl as unusable:
            yield Problem(f"REDIS_URL: {unusable}")


def _master_keys(settings: Settings) -> Iterator[Problem]:
    for variable, private in (
        ("HEADRACE_MASTER_KEY", settings.master_key),
        ("HEADRACE_MASTER_KEY_BEFORE", settings.master_key_before),
    ):
        if private is not None:
            try:
                Opener(private.get_secret_value())
            except MasterKeyInvalid as invalid:
                yield Problem(f"{variable}: {invalid}")
    if settings.master_public_key is not None:
        try:
            Sealer(settings.master_public_key)
        except MasterKeyInvalid as invalid:
            yield Problem(f"HEADRACE_MASTER_PUBLIC_KEY: {invalid}")


def _issuers(settings: Settings) -> Iterator[Problem]:
    """A key set that would never be fetched would only be missed at somebody's login."""
    rules = EgressRules.of(settings.egress, production=settings.environment == "production")
    names = [issuer.issuer for issuer in settings.accounts.issuers]
    if len(set(names)) < len(names):
        yield Problem("HEADRACE_ACCOUNTS__ISSUERS: each issuer can be there once.")
    for number, issuer in enumerate(settings.accounts.issuers, 1):
        if issuer.account is None and issuer.account_claim is None:
            yield Problem(f"HEADRACE_ACCOUNTS__ISSUERS: number {number} needs account or account_claim.")
        try:
            check_url(issuer.jwks_url, rules)
        except EgressFailed:
            yield Problem(
                f"HEADRACE_ACCOUNTS__ISSUERS: the jwks_url of number {number} must be https:// at a public "
                "host, or its host be named in HEADRACE_EGRESS__PRIVATE_HOSTS."
            )


def _first_operator(settings: Settings) -> Iterator[Problem]:
    if (settings.admin_email is None) != (settings.admin_password is None):
        yield Problem("HEADRACE_ADMIN_EMAIL and HEADRACE_ADMIN_PASSWORD go together: set both or none.")
    if settings.admin_email is None or settings.admin_password is None:
        return
    try:
        normal_email(settings.admin_email)
        check_form(settings.admin_password.get_secret_value())
    except InvalidRequest as invalid:
        # `email: must be an email address` and the like.
        name, _, problem = invalid.message.partition(":")
        yield Problem(f"HEADRACE_ADMIN_{name.upper()}:{problem}")


def _named_by_files(settings: Settings) -> set[str]:
    """Variables that the providers file takes keys from."""
    try:
        file = providers_file(settings)
    except ProvidersFileInvalid:
        return set()
    fields = ("api_key_env", "access_key_env", "secret_key_env", "session_token_env")
    named = {getattr(endpoint, field, None) for endpoint in file.endpoint for field in fields}
    return {name.upper() for name in named if name}


def _not_json() -> list[str]:
    """Variables of lists and groups that do not hold JSON."""
    names = []
    for group, default in groups_of_settings().items():
        names.append(f"HEADRACE_{group}".upper())
        inner = type(default).model_fields.items()
        names += [f"HEADRACE_{group}__{name}".upper() for name, f in inner if isinstance(f.default, tuple)]
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
