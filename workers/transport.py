"""HTTP to providers: one aiohttp session for each (provider, origin, credential).

A session never follows redirects, keeps no cookies, reads no proxy from the environment
and inflates nothing. Bound to its origin, a credential cannot reach another one.
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

from shared.providers.profile import ProviderProfile
from shared.settings import ProviderSettings


class Transport:
    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._sessions: dict[tuple[str, str, str], aiohttp.ClientSession] = {}

    def session(
        self, profile: ProviderProfile, credential: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientSession:
        """`headers` are fixed for the session's life: the profile's own and the credential."""
        # Two providers may sit behind one origin, with a key each.
        key = (profile.id, profile.origin, credential)
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

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
