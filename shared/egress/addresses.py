"""Which addresses are out in the public internet, and which are never to be dialled at all."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address

# Python 3.11 calls some of these global: 192.88.99.0/24, 168.63.129.16, multicast, 3fff::/20, 2002::/16, ...
_NOT_PUBLIC_V4: Final = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata is at 100.100.100.200
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's host agent
            "169.254.0.0/16",  # link-local, metadata of most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",  # Oracle's metadata at 192.0.0.192
            "192.0.2.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_PUBLIC_V6: Final = ip_network("2000::/3")
"""All that IANA gave out for the internet; mapped, compatible, NAT64, local and multicast lie outside."""
_NOT_PUBLIC_V6: Final = tuple(
    map(
        ip_network,
        (
            "2001::/23",  # Teredo, ORCHID, benchmarks
            "2001:db8::/32",
            "2002::/16",  # 6to4: an IPv4 address within
            "3fff::/20",
        ),
    )
)
_NEVER: Final = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.192/32", "100.100.100.200/32"),
            *("224.0.0.0/4", "240.0.0.0/4"),
            *("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
            *("fe80::/10", "ff00::/8"),
            # Metadata of AWS, Google and Oracle over IPv6.
            *("fd00:ec2::/32", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128"),
        ),
    )
)
"""Not even where an operator allows a host's private address: metadata, and IPv4 within IPv6, which
would get past the rows above. ::1 is here but for `is_loopback` below."""


def is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _NOT_PUBLIC_V4)
    return (
        address.scope_id is None
        and address in _PUBLIC_V6
        and not any(address in network for network in _NOT_PUBLIC_V6)
    )


def is_private_place(address: Address) -> bool:
    """Whether an operator may allow it by name: an address of their own network, or this machine."""
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False
    return str(address) == "::1" or not any(address in network for network in _NEVER)
