"""Which URLs may be asked at all: judged by what is written, before any name is looked up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import httpx

from shared.egress.addresses import Address, is_private_place, is_public
from shared.settings import EgressSettings

MAX_URL_CHARS: Final = 2_000
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Cause(StrEnum):
    """Why a request failed: for the log, never for whoever chose the URL."""

    URL = "url"
    SCHEME = "scheme"
    USERINFO = "userinfo"
    HOST = "host"
    PORT = "port"
    LOOKUP = "lookup"
    ADDRESS = "address"
    CONNECTION = "connection"
    REDIRECT = "redirect"
    ENCODING = "encoding"
    SIZE = "size"
    TIME = "time"


class EgressFailed(Exception):
    """The request was not allowed, or failed. Always in the same words: see the package."""

    def __init__(self, cause: Cause) -> None:
        super().__init__("The URL could not be reached.")
        self.cause = cause


@dataclass(frozen=True, slots=True)
class EgressRules:
    """
    private_hosts: `host` or `host:port` that may be on any port, and on a private address or this machine
    plain_http: whether these may also be asked without TLS; for development
    max_bytes: of an answer's body
    """

    ports: frozenset[int] = frozenset({443, 8443})
    private_hosts: frozenset[str] = frozenset()
    plain_http: bool = False
    connect_seconds: float = 5.0
    total_seconds: float = 10.0
    max_bytes: int = 1024 * 1024

    @classmethod
    def of(cls, settings: EgressSettings, *, production: bool) -> EgressRules:
        return cls(private_hosts=frozenset(settings.private_hosts), plain_http=not production)

    def is_exempt(self, host: str, port: int) -> bool:
        shown = f"[{host}]" if ":" in host else host
        return bool({shown, f"{shown}:{port}"} & self.private_hosts)

    def allows(self, address: Address, *, exempt: bool) -> bool:
        return is_public(address) or (exempt and is_private_place(address))


@dataclass(frozen=True, slots=True)
class Place:
    """`host`: as in the URL, without brackets; `literal`: the address that it is, if it is one."""

    scheme: str
    host: str
    port: int
    literal: Address | None
    exempt: bool


def check_url(url: str, rules: EgressRules) -> httpx.URL:
    """The URL that this text says. Raises EgressFailed, for addresses written into it too.

    For whoever is told a URL to keep: what passes here may still fail when it is called.
    """
    # httpx would percent-encode these, and read a backslash as others do not.
    if len(url) > MAX_URL_CHARS or not url.isascii() or not url.isprintable() or {" ", "\\"} & set(url):
        raise EgressFailed(Cause.URL)
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise EgressFailed(Cause.URL) from None
    if parsed.fragment:
        raise EgressFailed(Cause.URL)
    place_of(parsed, rules)
    return parsed


def place_of(url: httpx.URL, rules: EgressRules) -> Place:
    """Raises EgressFailed."""
    if url.scheme not in _DEFAULT_PORTS:
        raise EgressFailed(Cause.SCHEME)
    if url.userinfo:
        raise EgressFailed(Cause.USERINFO)
    host = url.raw_host.decode("ascii")
    port = _DEFAULT_PORTS[url.scheme] if url.port is None else url.port
    literal = _literal(host)
    exempt = rules.is_exempt(host, port)
    if literal is None and (_NAME.fullmatch(host) is None or _NUMBER.fullmatch(host.rpartition(".")[2])):
        # `0`, `0x7f.1`, `127.1`: no names, and addresses to getaddrinfo.
        raise EgressFailed(Cause.HOST)
    if literal is None and "." not in host and not exempt:
        raise EgressFailed(Cause.HOST)  # `localhost`, or whatever a search domain makes of it
    if literal is not None and not rules.allows(literal, exempt=exempt):
        raise EgressFailed(Cause.ADDRESS)
    if url.scheme == "http" and not (rules.plain_http and exempt):
        raise EgressFailed(Cause.SCHEME)
    if port not in rules.ports and not (exempt and port):
        raise EgressFailed(Cause.PORT)
    return Place(url.scheme, host, port, literal, exempt)


def address_of(text: str) -> Address | None:
    """None of what is no address, or one in a form that is not its only one."""
    kind = IPv6Address if ":" in text else IPv4Address
    try:
        address = kind(text)
    except ValueError:
        return None
    return address


def _literal(host: str) -> Address | None:
    address = address_of(host)
    return address if address is not None and str(address) == host else None
