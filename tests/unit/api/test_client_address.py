"""Where a request comes from, whatever it says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from api.client_address import client_address

PROXY = "10.0.0.1"
TRUSTED = ("10.0.0.0/8",)


def scope(peer: str, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    return {"client": (peer, 1234), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", ["6.6.6.6"], "203.0.113.9"),
        (PROXY, [], PROXY),
        (PROXY, ["203.0.113.9"], "203.0.113.9"),
        (PROXY, ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (PROXY, ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (PROXY, ["6.6.6.6, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (PROXY, ["junk"], PROXY),
        (PROXY, ["203.0.113.9, junk"], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        (PROXY, ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("2001:db8:1:2::77", [], "2001:db8:1:2::/64"),
        ("", [], ""),
    ],
)
def test_only_what_a_trusted_proxy_wrote_counts(peer: str, forwarded: list[str], expected: str) -> None:
    assert client_address(scope(peer, *forwarded), TRUSTED) == expected


def test_without_trusted_proxies_the_header_is_nobodys_word() -> None:
    assert client_address(scope(PROXY, "203.0.113.9"), ()) == PROXY
