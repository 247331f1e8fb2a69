"""What browsers are told about pages of other origins that call the API (Fetch standard, 3.2).

    preflight ── OPTIONS, Origin, Access-Control-Request-Method ──> 204, no credential asked
    request   ── Origin ──> any answer, errors too, readable by the pages of the origins in the settings

An origin that is not among them gets the same answers, but its browser does not let the page
read them. Who may call is for keys to say: CORS keeps nobody out who is no browser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from api.error_views import RawHeaders
from shared.settings import CorsSettings

_NAME: Final = rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_NAMES: Final = re.compile(_NAME + rb"(?:[ \t]*,[ \t]*" + _NAME + rb")*")
_MAX_HEADER_NAMES: Final = 2_000
_OF_LIMITS: Final = (b"limit", b"remaining", b"reset")
_OF_JOBS: Final = (
    *(b"job-id", b"provider", b"model", b"attempts", b"joined", b"queue-ms", b"queue-position"),
    *(b"estimated-wait-ms", b"dropped-params"),
)
_EXPOSED: Final = b", ".join(
    (
        *(b"x-request-id", b"request-id", b"retry-after", b"x-should-retry", b"idempotent-replayed"),
        *(b"ratelimit", b"ratelimit-policy"),
        *(b"x-ratelimit-%b-%b" % (what, of) for of in (b"requests", b"tokens") for what in _OF_LIMITS),
        *(b"x-headrace-%b" % name for name in _OF_JOBS),
    )
)
"""What pages may read besides the few headers that they always may. `*` would not do with credentials."""


class Cors:
    def __init__(self, settings: CorsSettings) -> None:
        self._any = "*" in settings.origins
        self._origins = frozenset(origin.encode() for origin in settings.origins)
        self._credentials = settings.credentials
        self._preflight: RawHeaders = [
            (b"access-control-allow-methods", ", ".join(settings.methods).encode()),
            (b"access-control-max-age", b"%d" % settings.max_age_seconds),
        ]

    def told(self, origin: bytes) -> RawHeaders:
        """With every answer to a page of that origin."""
        if self._any and not self._credentials:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED)]
        headers = [(b"vary", b"Origin")]
        if self._any or origin in self._origins:
            headers += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _EXPOSED),
            ]
            if self._credentials:
                headers.append((b"access-control-allow-credentials", b"true"))
        return headers

    def preflight(self, request: Mapping[bytes, bytes]) -> RawHeaders | None:
        """What a preflight is told besides; None where this is none.

        Any header may be sent: official clients add their own, and none of ours is dangerous.
        """
        if b"access-control-request-method" not in request:
            return None
        names = request.get(b"access-control-request-headers", b"")
        if len(names) > _MAX_HEADER_NAMES or _NAMES.fullmatch(names) is None:
            return self._preflight
        return [*self._preflight, (b"access-control-allow-headers", names)]
