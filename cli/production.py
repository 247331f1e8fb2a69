"""What a process refuses to start with in production: each one line that names the variable, never its value.

Development takes all of it, so that a newcomer needs none of it. docs/security.md lists the lines.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

from shared.providers.profile import ProviderProfile
from shared.providers.registry import Registry
from shared.queue.eviction import SAFE, policy_of
from shared.queue.links import open_link
from shared.queue.redis_url import OneServer, read_url
from shared.settings import Settings

MIN_SECRET_CHARS: Final = 32
_MIN_PASSWORD_CHARS: Final = 12
_MIN_DISTINCT: Final = 8
_MIN_BESIDES_WORDS: Final = 16
_REDIS_SECONDS: Final = 3.0
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_PLACEHOLDERS: Final = """
    0123456789 1234567890 123456 32 a abcdef abcdefghijklmnopqrstuvwxyz admin and at be bytes change changeme
    characters chars default demo development do dummy example foobar for gateway generate generated headrace
    here hunter2 in insecure ipsum is jwt key least letmein local long lorem master min minimum must my not of
    passphrase passwd password pepper please postgres production qwerty random redis replace root sample
    secret set string super test testing the this to token use user value very welcome with your
"""
_WORDS: Final = re.compile(
    "|".join(sorted(_PLACEHOLDERS.split(), key=len, reverse=True)) + "|[^a-z0-9]", re.IGNORECASE
)
"""What examples and placeholders are made of."""


def complaints(settings: Settings, registry: Registry, *, checks_keys: bool) -> Iterator[str]:
    """What production does not allow. `checks_keys`: the process needs the pepper."""
    if settings.faultpoints:
        yield "FAULTPOINTS is set: it kills processes on purpose, and is refused in production."
    yield from secret_complaints(settings, checks_keys=checks_keys)
    if settings.log.level in {"TRACE", "DEBUG"}:
        yield "HEADRACE_LOG__LEVEL: must be INFO or above in production."
    if settings.api.docs == "on":
        yield "HEADRACE_API__DOCS: in production it must be `public` if everybody may read the documentation."
    yield from _cors(settings)
    if settings.redis_url is not None:
        yield from redis_password_complaints(settings.redis_url.get_secret_value())
    for profile in registry.profiles.values():
        yield from _plain_http(profile, settings)


def redis_complaint(url: str) -> str | None:
    """The same of the server itself. None where it is away, or does not tell: then no harm is known."""
    try:
        policy = asyncio.run(_policy(url))
    except (RedisError, OSError, TimeoutError):
        return None
    if policy in {None, SAFE}:
        return None
    return f"REDIS_URL: its maxmemory-policy must be {SAFE}, or a full server throws queued jobs away."


def weakness(secret: str) -> str | None:
    """Why this is no secret; None where nothing is known against it."""
    if len(secret) < MIN_SECRET_CHARS:
        return f"is too short: it takes at least {MIN_SECRET_CHARS} characters."
    if len(set(secret)) < _MIN_DISTINCT or secret in (secret + secret)[1:-1]:
        return "repeats itself: take a random one."
    if len(_WORDS.sub("", secret)) < _MIN_BESIDES_WORDS:
        return "is made of the words that are tried first: take a random one."
    return None


def secret_complaints(settings: Settings, *, checks_keys: bool) -> Iterator[str]:
    """Of our own secrets."""
    secrets: dict[str, SecretStr | None] = {
        "JWT_SECRET": settings.jwt_secret,
        "HEADRACE_JWT_SECRET_BEFORE": settings.jwt_secret_before,
        "HEADRACE_KEY_PEPPER": settings.key_pepper,
        "HEADRACE_MASTER_KEY": settings.master_key,
        "HEADRACE_MASTER_KEY_BEFORE": settings.master_key_before,
        "HEADRACE_ADMIN_TOKEN": settings.admin_token,
    }
    if checks_keys and settings.key_pepper is None:
        yield (
            "HEADRACE_KEY_PEPPER is not set: API keys and webhooks need a secret of at least "
            f"{MIN_SECRET_CHARS} characters."
        )
    known = {name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None}
    for name, secret in known.items():
        if (why := weakness(secret)) is not None:
            yield f"{name} {why}"
    for (name, secret), (other, same) in combinations(known.items(), 2):
        if secret == same:
            yield f"{other} is the same as {name}: each needs a secret of its own."
    password = settings.admin_password
    if password is not None and _is_known(password.get_secret_value(), at_least=_MIN_PASSWORD_CHARS):
        yield f"HEADRACE_ADMIN_PASSWORD is too easy: take {_MIN_PASSWORD_CHARS} characters nobody guesses."


def _cors(settings: Settings) -> Iterator[str]:
    cors = settings.cors
    if "*" in cors.origins and cors.credentials:
        yield "HEADRACE_CORS__ORIGINS: must name the origins where HEADRACE_CORS__CREDENTIALS is true."
    if any(origin.startswith("http://") for origin in cors.origins):
        yield "HEADRACE_CORS__ORIGINS: must be https:// origins in production."


def redis_password_complaints(url: str) -> Iterator[str]:
    """Of a URL that can be read."""
    place = read_url(url)
    if isinstance(place, OneServer):
        if place.url.startswith("unix:"):
            return  # who may open it, the file system says
        password = parse_url(place.url).get("password") or ""
    else:
        password = unquote(place.userinfo.rpartition(":")[2])
    if not password:
        yield "REDIS_URL: must hold a password, in production."
    elif _is_known(password):
        yield "REDIS_URL: its password is one of those that are tried first."


def _is_known(password: str, *, at_least: int = 1) -> bool:
    return len(password) < at_least or len(set(password)) < 4 or not _WORDS.sub("", password)


def _plain_http(profile: ProviderProfile, settings: Settings) -> Iterator[str]:
    for origin in sorted(profile.origins):
        parts = urlsplit(origin)
        if parts.scheme != "http" or parts.hostname in _LOOPBACK:
            continue
        if parts.hostname in settings.provider.plain_http_hosts:
            continue
        variable = profile.base_url_variable
        from_environment = variable and settings.provider_base_url(variable)
        named = variable if from_environment else f"HEADRACE_PROVIDERS_FILE: the base_url of {profile.id}"
        yield f"{named} must be https://, or its host be named in HEADRACE_PROVIDER__PLAIN_HTTP_HOSTS."


async def _policy(url: str) -> str | None:
    link = open_link(url, timeout=_REDIS_SECONDS)
    try:
        async with asyncio.timeout(_REDIS_SECONDS):
            return await policy_of(link)
    finally:
        await link.close()
