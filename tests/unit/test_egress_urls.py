"""What is judged before any name is looked up: URLs as they are written, addresses as they are."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from shared.egress.addresses import is_private_place, is_public
from shared.egress.rules import Cause, EgressFailed, EgressRules, check_url
from shared.settings import EgressSettings

RULES = EgressRules()

_MAPPED_IS_DOTTED = str(ip_address("::ffff:7f00:1")) == "::ffff:127.0.0.1"

NOT_PUBLIC = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.169.254", "169.254.170.2", "172.31.255.255", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1"),
    *("239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:db8::1"),
    *("2002:7f00:1::", "2002:808:808::1", "3fff::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254"),
    *("fe80::1", "fe80::a9fe:a9fe", "fec0::1", "ff02::1", "ff0e::1", "2606:4700::1%eth0"),
]


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_an_address_that_is_not_out_in_the_internet_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"])
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *("169.254.169.254", "0.0.0.0", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1"),
        *("::", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::10.0.0.1", "fe80::1", "ff02::1"),
        *("fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe"),
    ],
)
def test_metadata_and_the_like_cannot_even_be_allowed(text: str) -> None:
    assert not is_private_place(ip_address(text))


@pytest.mark.parametrize("text", ["10.0.0.1", "127.0.0.1", "192.168.1.1", "::1", "fd12::1"])
def test_a_private_network_can_be_allowed(text: str) -> None:
    assert is_private_place(ip_address(text))


REFUSED = [
    ("https://0/", Cause.HOST),
    ("https://2130706433/", Cause.HOST),
    ("https://0x7f.1/", Cause.HOST),
    ("https://0x7f000001/", Cause.HOST),
    ("https://hooks.0x7f/", Cause.HOST),
    ("https://127.1/", Cause.HOST),
    ("https://0177.0.0.1/", Cause.URL),
    ("https://127.0.0.1./", Cause.HOST),
    ("https://①②⑦.⓪.⓪.①/", Cause.URL),
    ("https://bücher.example/", Cause.URL),
    ("https://localhost/", Cause.HOST),
    ("https://redis/", Cause.HOST),
    ("https://hooks.example./", Cause.HOST),
    ("https://-hooks.example/", Cause.HOST),
    ("https://hooks_1.example/", Cause.HOST),
    ("https://hooks%2eexample/", Cause.HOST),
    (f"https://{'a' * 64}.example/", Cause.HOST),
    (f"https://{'abc.' * 64}example/", Cause.HOST),
    ("https:///keys", Cause.HOST),
    # Which of the two is the canonical form changed with Python 3.13: the other one is refused as a host.
    ("https://[::ffff:127.0.0.1]/", Cause.ADDRESS if _MAPPED_IS_DOTTED else Cause.HOST),
    ("https://[::ffff:7f00:1]/", Cause.HOST if _MAPPED_IS_DOTTED else Cause.ADDRESS),
    ("https://[64:ff9b::7f00:1]/", Cause.ADDRESS),
    ("https://[2002:7f00:1::]/", Cause.ADDRESS),
    ("https://[fd00:ec2::254]/", Cause.ADDRESS),
    ("https://[::1]/", Cause.ADDRESS),
    ("https://[fe80::1%25eth0]/", Cause.ADDRESS),
    ("https://[2606:4700:0:0::1111]/", Cause.HOST),
    ("https://127.0.0.1/", Cause.ADDRESS),
    ("https://169.254.169.254/latest/meta-data/", Cause.ADDRESS),
    ("https://user:pass@hooks.example/", Cause.USERINFO),
    ("https://user@hooks.example/", Cause.USERINFO),
    ("https://hooks.example\\@127.0.0.1/", Cause.URL),
    ("https://hooks.example/#@127.0.0.1", Cause.URL),
    ("https://hooks.example/\n", Cause.URL),
    (" https://hooks.example/", Cause.URL),
    ("https://hooks.example:99999999/", Cause.PORT),
    ("https://hooks.example/" + "x" * 2_000, Cause.URL),
    ("https://hooks.example:22/", Cause.PORT),
    ("https://hooks.example:0/", Cause.PORT),
    ("https://hooks.example:80/", Cause.PORT),
    ("http://hooks.example/", Cause.SCHEME),
    ("http://hooks.example:443/", Cause.SCHEME),
    ("ftp://hooks.example/", Cause.SCHEME),
    ("gopher://hooks.example:443/", Cause.SCHEME),
    ("file:///etc/passwd", Cause.SCHEME),
    ("//hooks.example/", Cause.SCHEME),
    ("hooks.example", Cause.SCHEME),
    ("", Cause.SCHEME),
]


@pytest.mark.parametrize(("url", "cause"), REFUSED)
def test_a_url_that_may_mean_something_else_is_refused_in_words_that_say_nothing(
    url: str, cause: Cause
) -> None:
    with pytest.raises(EgressFailed) as failed:
        check_url(url, RULES)

    assert failed.value.cause is cause
    assert str(failed.value) == "The URL could not be reached."


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/a?b=c",
        "https://HOOKS.example:8443/",
        "https://hooks.example:443/",
        "https://xn--bcher-kva.example/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:8443/",
        "https://1.hooks.example/",
    ],
)
def test_a_plain_https_url_passes(url: str) -> None:
    assert check_url(url, RULES).scheme == "https"


def test_a_host_that_the_operator_named_may_be_private_and_in_development_plain() -> None:
    settings = EgressSettings(private_hosts=("idp:8080", "10.0.0.7", "169.254.169.254"))
    development = EgressRules.of(settings, production=False)
    production = EgressRules.of(settings, production=True)

    assert check_url("http://idp:8080/keys", development).host == "idp"
    assert check_url("https://10.0.0.7:9443/keys", production).port == 9443
    for rules, url in (
        (production, "http://idp:8080/keys"),
        (development, "http://idp:8081/keys"),
        (development, "https://idp/keys"),
        (development, "https://10.0.0.8/keys"),
        (development, "https://169.254.169.254/latest"),
        (development, "http://hooks.example/"),
    ):
        with pytest.raises(EgressFailed):
            check_url(url, rules)
