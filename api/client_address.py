"""Where a request comes from: the peer, or whom a proxy that is trusted names."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.types import Scope


def client_address(scope: Scope, trusted_proxies: Iterable[str]) -> str:
    """Of X-Forwarded-For the last one that is no trusted proxy: what stands before it anybody could write.

    An IPv6 client has a whole /64, so that is what is told of it.
    """
    client = scope.get("client")
    address: str = client[0] if client else ""
    networks = [ip_network(proxy, strict=False) for proxy in trusted_proxies]
    if networks and _within(address, networks):
        for hop in reversed(_forwarded_for(scope)):
            if not _is_address(hop.strip()):
                break
            address = hop.strip()
            if not _within(address, networks):
                break
    return _of_the_client(address)


def _forwarded_for(scope: Scope) -> list[str]:
    """Of all such headers: a proxy may add a line of its own instead of writing behind the caller's."""
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return ",".join(lines).split(",")


def _within(address: str, networks: Iterable[object]) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in networks)  # type: ignore[operator]  # the settings made networks of them


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _of_the_client(address: str) -> str:
    if not _is_address(address):
        return address
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)
