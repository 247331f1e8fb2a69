"""Headers of every answer that keep browsers and caches from making more of it than it is."""

from __future__ import annotations

from api.error_views import RawHeaders
from shared.settings import ApiSettings


def protective_headers(settings: ApiSettings) -> RawHeaders:
    """Made once a process: an answer pays for one more list, not for what is in it."""
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        # Of the page alone: what the documentation loads it loads.
        (b"content-security-policy", b"frame-ancestors 'none'"),
        # A proxy that packed a stream would hold it back.
        (b"cache-control", b"no-store, no-transform"),
    ]
    if settings.hsts_seconds:
        headers.append((b"strict-transport-security", b"max-age=%d" % settings.hsts_seconds))
    return headers
