"""Headers of every answer that keep browsers and caches from making more of it than it is."""

from __future__ import annotations

from typing import Final

from api.error_views import RawHeaders
from shared.settings import ApiSettings

# Of pages that bring all they need along: nothing inline, nothing from elsewhere.
_OF_PAGES: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def protective_headers(settings: ApiSettings) -> RawHeaders:
    """Made once a process: an answer pays for one more list, not for what is in it."""
    # Of the page alone: what the documentation loads it loads.
    # A proxy that packed a stream would hold it back.
    return _headers(settings, policy=b"frame-ancestors 'none'", cache=b"no-store, no-transform")


def page_headers(settings: ApiSettings) -> RawHeaders:
    """Of the dashboard, which a browser may keep, and asks about each time."""
    return _headers(settings, policy=_OF_PAGES, cache=b"no-cache")


def _headers(settings: ApiSettings, *, policy: bytes, cache: bytes) -> RawHeaders:
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        (b"content-security-policy", policy),
        (b"cache-control", cache),
    ]
    if settings.hsts_seconds:
        headers.append((b"strict-transport-security", b"max-age=%d" % settings.hsts_seconds))
    return headers
