"""Absolute URLs of this api, as whoever asks reaches it."""

from __future__ import annotations

from starlette.requests import Request


def absolute(path: str, request: Request) -> str:
    """On the host that the request names, by https where it came so, or says that it did: a proxy in front
    of us says it, and anybody else can only mislead itself.
    """
    told = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    scheme = "https" if told == "https" else request.url.scheme
    return f"{scheme}://{request.headers['host']}{path}"
