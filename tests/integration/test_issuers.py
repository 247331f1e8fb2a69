"""Access tokens of other issuers, whose key sets are fetched over a socket."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.auth.announcement import announce
from shared.auth.issuers import Issuers
from shared.auth.key_sets import AGAIN_SECONDS, FRESH_SECONDS, STALE_SECONDS
from shared.auth.lookup import KeyLookup
from shared.clock import ManualClock
from shared.db.repositories import accounts
from shared.db.repositories.principals import account_digest
from shared.domain.allowance import Limits, Scope, Tier
from shared.domain.roles import Permission, Role
from shared.egress.rules import EgressRules
from shared.egress.transport import GuardedTransport
from shared.errors import AuthenticationFailed, Overloaded
from shared.ids import ApiKeyId
from tests.fakes.issuer import AUDIENCE, NAME, FakeIssuer, public_jwk, running_issuer
from tests.integration.key_stores import ACME, PEPPER, SETTINGS, Stores, stores_of


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with running_issuer() as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def stores(redis_url: str, database_url: str) -> AsyncIterator[Stores]:
    async for each in stores_of(redis_url, database_url):
        yield each


def issuers_of(issuer: FakeIssuer, clock: ManualClock, **settings: Any) -> Issuers:
    rules = EgressRules(private_hosts=frozenset({f"127.0.0.1:{issuer.port}"}), plain_http=True)
    return Issuers([issuer.settings(**settings)], GuardedTransport(rules), clock=clock)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_a_token_is_verified_by_the_algorithm_of_its_key(
    issuer: FakeIssuer, clock: ManualClock, algorithm: str
) -> None:
    issuer.add_key("two", algorithm)
    issuers = issuers_of(issuer, clock, algorithms=[algorithm])

    claims = await issuers.read(issuer.token(clock.now(), key_id="two", algorithm=algorithm))

    assert claims.account == "acme"
    assert claims.role is Role.MEMBER
    assert claims.expires_at == clock.now().replace(microsecond=0) + timedelta(seconds=600)


Change = Callable[[FakeIssuer, ManualClock], str]


def _signed_with_the_public_key_as_a_secret(issuer: FakeIssuer, clock: ManualClock) -> str:
    public = issuer.signing["one"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _by_hand(issuer, clock, {"alg": "HS256", "kid": "one"}, pem)


def _by_hand(issuer: FakeIssuer, clock: ManualClock, header: dict[str, Any], secret: bytes) -> str:
    body = issuer.token(clock.now()).split(".")[1]
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    mac = hmac.digest(secret, f"{head}.{body}".encode(), "sha256") if secret else b"x"
    return f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _with_its_own_key_in_the_header(issuer: FakeIssuer, clock: ManualClock) -> str:
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now = int(clock.now().timestamp())
    payload = {"iss": NAME, "aud": AUDIENCE, "sub": "eve", "iat": now, "exp": now + 60}
    place = f"{issuer.url}?own"
    headers = {"kid": "one", "jwk": public_jwk(own, "one"), "jku": place, "x5u": place}
    return jwt.encode(payload, own, "RS256", headers=headers)


def _exchanged(one: str, other: str) -> str:
    head, _, signature = one.split(".")
    return f"{head}.{other.split('.')[1]}.{signature}"


FORGED: dict[str, Change] = {
    "alg none": lambda i, c: _by_hand(i, c, {"alg": "none", "kid": "one"}, b""),
    "public key as HMAC secret": _signed_with_the_public_key_as_a_secret,
    "its own key in the header": _with_its_own_key_in_the_header,
    "an algorithm that is not allowed": lambda i, c: i.token(c.now(), algorithm="PS256"),
    "RS512": lambda i, c: i.token(c.now(), algorithm="RS512"),
    "unknown key": lambda i, c: i.token(c.now(), headers={"kid": "three"}),
    "no key id": lambda i, c: i.token(c.now(), headers={"kid": ""}),
    "crit": lambda i, c: i.token(c.now(), headers={"crit": ["exp"]}),
    "another use": lambda i, c: i.token(c.now(), headers={"typ": "logout+jwt"}),
    "refresh token": lambda i, c: i.token(c.now(), typ="Refresh"),
    "id token": lambda i, c: i.token(c.now(), typ="ID"),
    "no sub": lambda i, c: i.token(c.now(), sub=None),
    "empty sub": lambda i, c: i.token(c.now(), sub=""),
    "no exp": lambda i, c: i.token(c.now(), exp=None),
    "no iat": lambda i, c: i.token(c.now(), iat=None),
    "no aud": lambda i, c: i.token(c.now(), aud=None),
    "another aud": lambda i, c: i.token(c.now(), aud="somebody.example.com"),
    "expired": lambda i, c: i.token(c.now() - timedelta(seconds=631)),
    "not yet": lambda i, c: i.token(c.now() + timedelta(seconds=60)),
    "nbf ahead": lambda i, c: i.token(c.now(), nbf=int(c.now().timestamp()) + 60),
    "exp true": lambda i, c: i.token(c.now(), exp=True),
    "exp at the end of days": lambda i, c: i.token(c.now(), exp=10**15),
    "tampered": lambda i, c: i.token(c.now())[:-8] + "AAAAAAAA",
    "another payload": lambda i, c: _exchanged(i.token(c.now()), i.token(c.now(), sub="eve")),
    "huge": lambda i, c: i.token(c.now(), padding="x" * 5_000),
    "another issuer": lambda i, c: i.token(c.now(), iss="https://else.example.com/"),
    "no issuer": lambda i, c: i.token(c.now(), iss=None),
}


@pytest.mark.parametrize("forged", list(FORGED))
async def test_a_forged_token_is_refused(issuer: FakeIssuer, clock: ManualClock, forged: str) -> None:
    issuers = issuers_of(issuer, clock)
    assert (await issuers.read(issuer.token(clock.now()))).account == "acme"

    with pytest.raises(AuthenticationFailed):
        await issuers.read(FORGED[forged](issuer, clock))


async def test_the_account_and_the_role_are_what_the_claims_say(
    issuer: FakeIssuer, clock: ManualClock
) -> None:
    issuers = issuers_of(
        issuer, clock, account=None, account_claim="org", role="viewer", role_claim="https://x/roles"
    )

    async def read(**claims: Any) -> tuple[str, Role]:
        found = await issuers.read(issuer.token(clock.now(), **claims))
        return found.account, found.role

    assert await read(org="acme") == ("acme", Role.VIEWER)
    assert await read(org="b", **{"https://x/roles": "service"}) == ("b", Role.SERVICE)
    assert await read(org="b", **{"https://x/roles": ["x", "member", "viewer"]}) == ("b", Role.MEMBER)
    odd_ones: list[Any] = ["root", ["operator"], 7, {}, [[]]]
    for odd in odd_ones:
        assert await read(org="b", **{"https://x/roles": odd}) == ("b", Role.VIEWER)
    for org in (None, "", "../x", 7, ["acme"], "x" * 65):
        with pytest.raises(AuthenticationFailed):
            await read(org=org)


@pytest.mark.parametrize(
    "odd",
    [
        {"d": "AQAB"},
        {"use": "enc"},
        {"alg": "RS512"},
        {"alg": ["RS256"]},
        {"key_ops": ["encrypt"]},
        {"key_ops": 7},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": ["RSA"]},
        {"crv": "P-256"},
        {"n": "!"},
        {"kid": 7},
    ],
)
async def test_a_key_that_cannot_be_one_is_left_out_and_the_others_are_kept(
    issuer: FakeIssuer, clock: ManualClock, odd: dict[str, Any]
) -> None:
    issuer.add_key("two", **odd)
    issuer.keys += [7, "x", None, {}]  # type: ignore[list-item]  # what a set must not hold
    issuers = issuers_of(issuer, clock)

    assert (await issuers.read(issuer.token(clock.now()))).role is Role.MEMBER
    with pytest.raises(AuthenticationFailed):
        await issuers.read(issuer.token(clock.now(), key_id="two"))


async def test_a_key_of_one_algorithm_verifies_no_other_of_its_kind(
    issuer: FakeIssuer, clock: ManualClock
) -> None:
    issuer.add_key("two", alg="RS256")
    issuers = issuers_of(issuer, clock, algorithms=["RS256", "PS256", "ES256"])

    assert (await issuers.read(issuer.token(clock.now(), algorithm="PS256"))).role is Role.MEMBER
    assert (await issuers.read(issuer.token(clock.now(), key_id="two"))).role is Role.MEMBER
    with pytest.raises(AuthenticationFailed):
        await issuers.read(issuer.token(clock.now(), key_id="two", algorithm="PS256"))


async def test_a_weak_key_verifies_nothing(issuer: FakeIssuer, clock: ManualClock) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - what is refused
    issuer.signing["weak"] = weak
    issuer.keys.append(public_jwk(weak, "weak"))

    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = issuer.token(clock.now(), key_id="weak")
    with pytest.raises(AuthenticationFailed):
        await issuers_of(issuer, clock).read(token)


async def test_a_new_key_is_fetched_once_a_minute_at_most(issuer: FakeIssuer, clock: ManualClock) -> None:
    issuers = issuers_of(issuer, clock)
    await asyncio.gather(*(issuers.read(issuer.token(clock.now())) for _ in range(8)))
    assert issuer.fetched == 1
    issuer.add_key("two")

    for _ in range(5):
        with pytest.raises(AuthenticationFailed):
            await issuers.read(issuer.token(clock.now(), key_id="two"))
    assert issuer.fetched == 1
    clock.advance(AGAIN_SECONDS)
    claims = await issuers.read(issuer.token(clock.now(), key_id="two"))

    assert claims.account == "acme"
    assert issuer.fetched == 2


async def test_what_the_settings_do_not_allow_fetches_nothing(issuer: FakeIssuer, clock: ManualClock) -> None:
    issuers = issuers_of(issuer, clock)

    for forged in ("alg none", "public key as HMAC secret", "RS512", "another issuer"):
        with pytest.raises(AuthenticationFailed):
            await issuers.read(FORGED[forged](issuer, clock))

    assert issuer.fetched == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull",
        b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"keys":1}',
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
        b"junk\r\n\r\n",
        b"",
    ],
)
async def test_while_the_issuer_is_down_its_keys_stay_good_for_a_day(
    issuer: FakeIssuer, clock: ManualClock, answer: bytes
) -> None:
    issuers = issuers_of(issuer, clock)
    other_process = issuers_of(issuer, clock)
    await issuers.read(issuer.token(clock.now()))
    issuer.answer = answer

    clock.advance(FRESH_SECONDS + 1)
    assert (await issuers.read(issuer.token(clock.now()))).account == "acme"
    with pytest.raises(Overloaded):
        await other_process.read(issuer.token(clock.now()))
    clock.advance(STALE_SECONDS)
    with pytest.raises(Overloaded):
        await issuers.read(issuer.token(clock.now()))
    issuer.answer = None
    clock.advance(AGAIN_SECONDS)
    assert (await issuers.read(issuer.token(clock.now()))).account == "acme"
    await issuers.aclose()
    await other_process.aclose()


async def test_a_key_that_the_issuer_withdrew_is_good_no_longer_than_it_is_fresh(
    issuer: FakeIssuer, clock: ManualClock
) -> None:
    issuers = issuers_of(issuer, clock)
    await issuers.read(issuer.token(clock.now()))
    issuer.keys.clear()
    issuer.add_key("two")

    clock.advance(FRESH_SECONDS + 1)
    await issuers.read(issuer.token(clock.now(), key_id="two"))

    with pytest.raises(AuthenticationFailed):
        await issuers.read(issuer.token(clock.now(), key_id="one"))


async def test_its_holder_is_of_the_account_and_hears_of_its_changes(
    issuer: FakeIssuer, stores: Stores
) -> None:
    process = KeyLookup(
        stores.link,
        stores.database,
        pepper=PEPPER,
        settings=SETTINGS,
        tokens=stores.access_tokens(),
        issuers=issuers_of(issuer, stores.clock, role="service"),
        clock=stores.clock,
    )
    stores.closing.push_async_callback(process.aclose)
    token = issuer.token(stores.clock.now())
    with pytest.raises(AuthenticationFailed):
        await process.resolve(token)
    async with stores.database.begin() as connection:
        await accounts.ensure(connection, ACME, name="Acme", at=stores.clock.now())
        await accounts.set_allowance(connection, ACME, tier=Tier.PAID, limits=Limits())
    stores.clock.advance(3)

    principal = await process.resolve(token)
    other = await process.resolve(issuer.token(stores.clock.now(), sub="grace"))

    assert (principal.account, principal.role, principal.user) == (ACME, Role.SERVICE, None)
    assert [(a.scope, a.tier) for a in principal.allowances] == [(Scope.ACCOUNT, Tier.PAID)]
    assert principal.may(Permission.INFERENCE)
    assert not principal.may(Permission.OPERATE)
    assert principal.api_key != other.api_key
    assert process.cached(token) == principal
    assert process.claims(token) is None

    async with stores.database.begin() as connection:
        await accounts.set_allowance(connection, ACME, tier=Tier.PAID, limits=Limits(daily_requests=3))
    await announce(stores.database, stores.link, ACME, clock=stores.clock, settings=SETTINGS)
    process.on_revoked(ApiKeyId(account_digest(ACME)))
    assert (await process.resolve(token)).allowances[0].limits.daily_requests == 3
    stores.clock.advance(620)
    late = await process.resolve(token)
    stores.clock.advance(8)
    assert process.cached(token) is None
    assert late.account == ACME
    with pytest.raises(AuthenticationFailed):
        await process.resolve(token)
