"""HTTP to providers: one aiohttp session for each (provider, origin, credential).

A session never follows redirects, keeps no cookies, reads no proxy from the environment
and inflates nothing. Bound to its origin, a credential cannot reach another one.

The broker's own credential is part of its session. An account's own key travels with each call
instead: no session keeps it, and it is checked against its origins right before it is sent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import aiohttp

from shared.domain.job import DEFAULT_CREDENTIAL
from shared.errors import ProviderCredentialRefused
from shared.providers.credentials import OwnKey
from shared.providers.profile import ProviderProfile, origin_of
from shared.settings import ProviderSettings

UNUSED_SECONDS: Final = 300.0
"""How long a session of an account's own key is kept beyond the longest call."""


class Transport:
    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._sessions: dict[tuple[str, str, str], aiohttp.ClientSession] = {}
        self._used_at: dict[tuple[str, str, str], float] = {}
        """Of accounts' own keys: there may be any number of them."""

    def session(
        self, profile: ProviderProfile, credential: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientSession:
        """`headers` are fixed for the session's life: the profile's own and the broker's credential."""
        # Two providers may sit behind one origin, with a key each.
        key = (profile.id, profile.origin, credential)
        if credential != DEFAULT_CREDENTIAL:
            self._used_at[key] = time.monotonic()
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._settings.connections,
                    keepalive_timeout=self._settings.keepalive_seconds,
                    ttl_dns_cache=30,
                    enable_cleanup_closed=False,
                ),
                headers={"accept-encoding": "identity", "content-type": "application/json", **headers},
                skip_auto_headers=("user-agent",),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Our own clocks run the phases; only the connect phase is aiohttp's.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_seconds),
                max_line_size=self._settings.max_header_bytes,
                max_field_size=self._settings.max_header_bytes,
                auto_decompress=False,
                trust_env=False,
                raise_for_status=False,
            )
        return session

    async def close_unused(self) -> None:
        """Sessions of accounts' own keys on which no call can be running any more."""
        oldest = time.monotonic() - self._settings.total_seconds - UNUSED_SECONDS
        for key in [key for key, used_at in self._used_at.items() if used_at < oldest]:
            del self._used_at[key]
            await self._sessions.pop(key).close()

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        self._used_at.clear()


def headers_for(
    own: OwnKey | None, url: str, profile: ProviderProfile, body: bytes = b""
) -> Mapping[str, str]:
    """What takes an account's own key, where there is one, to `url`. Raises ProviderCredentialRefused for
    an origin that it is not bound to.
    """
    if own is None:
        return {}
    if origin_of(url) not in own.origins:
        raise ProviderCredentialRefused(
            f"The account's own key at {profile.name} belongs to another address than the one called.",
            provider=profile.id,
        )
    return own.headers if own.sign is None else {**own.headers, **own.sign(url, body)}
