"""Access tokens: ours are read, and everything else is refused in the same words."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from shared.auth.access_tokens import AccessTokens, looks_like_one
from shared.clock import ManualClock
from shared.errors import AuthenticationFailed
from shared.ids import AccountId, UserId

SECRET = b"a secret of more than thirty-two bytes"
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
CLOCK = ManualClock(NOON)
TOKENS = AccessTokens(SECRET, life=timedelta(minutes=15), clock=CLOCK)
GOOD = TOKENS.issue(UserId("usr_a"), AccountId("acc_a"), 3, session="ses_a")
HEADER: dict[str, Any] = jwt.get_unverified_header(GOOD)
PAYLOAD: dict[str, Any] = jwt.decode(GOOD, options={"verify_signature": False})


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: Any, payload: Any, secret: bytes = SECRET) -> str:
    """Signed well, by hand, whatever is in it."""
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(payload).encode())}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256'))}"


def with_claims(**changed: Any) -> str:
    return forged(HEADER, {**PAYLOAD, **changed})


def with_header(**changed: Any) -> str:
    return forged({**HEADER, **changed}, PAYLOAD)


def without(claim: str) -> str:
    return forged(HEADER, {name: value for name, value in PAYLOAD.items() if name != claim})


def unsigned() -> str:
    return f"{b64(json.dumps({**HEADER, 'alg': 'none'}).encode())}.{GOOD.split('.')[1]}."


def signed_by_rsa() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode(PAYLOAD, key, "RS256", headers={"kid": HEADER["kid"]})


def swapped_payload() -> str:
    head, _, signature = GOOD.split(".")
    return f"{head}.{b64(json.dumps({**PAYLOAD, 'sub': 'usr_b'}).encode())}.{signature}"


MOMENT = int(NOON.timestamp())
FORGED: dict[str, Callable[[], str]] = {
    "not signed": unsigned,
    "alg None spelt otherwise": lambda: with_header(alg="nOnE"),
    "alg of another family": signed_by_rsa,
    "alg HS512 by name": lambda: with_header(alg="HS512"),
    "alg missing": lambda: forged({"kid": HEADER["kid"]}, PAYLOAD),
    "another payload under the signature": swapped_payload,
    "another secret": lambda: forged(HEADER, PAYLOAD, b"x" * 40),
    "an empty secret": lambda: forged(HEADER, PAYLOAD, b""),
    "its key id as secret": lambda: forged(HEADER, PAYLOAD, HEADER["kid"].encode()),
    "key id unknown": lambda: with_header(kid="another"),
    "key id of a file": lambda: with_header(kid="../../dev/null"),
    "key id missing": lambda: forged({"alg": "HS256"}, PAYLOAD),
    "key id a list": lambda: with_header(kid=[HEADER["kid"]]),
    "key id null": lambda: with_header(kid=None),
    "critical extension": lambda: with_header(crit=["b64"], b64=False),
    "key brought along": lambda: forged(
        {**HEADER, "kid": "own", "jwk": {"kty": "oct", "k": b64(b"y" * 40)}}, PAYLOAD, b"y" * 40
    ),
    "key elsewhere": lambda: forged(
        {**HEADER, "kid": "own", "jku": "http://127.0.0.1/jwks"}, PAYLOAD, b"y" * 40
    ),
    "expired": lambda: with_claims(exp=MOMENT - 31),
    "exp as text": lambda: with_claims(exp=str(MOMENT + 60)),
    "exp infinite": lambda: with_claims(exp=float("1e400")),
    "exp a float": lambda: with_claims(exp=MOMENT + 60.5),
    "not yet valid": lambda: with_claims(nbf=MOMENT + 31),
    "issued tomorrow": lambda: with_claims(iat=MOMENT + 86_400),
    "another audience": lambda: with_claims(aud="another"),
    "several audiences": lambda: with_claims(aud=["headrace", "another"]),
    "another issuer": lambda: with_claims(iss="another"),
    "a refresh token": lambda: with_claims(typ="refresh"),
    "no type": lambda: without("typ"),
    "sub a number": lambda: with_claims(sub=1),
    "account a list": lambda: with_claims(acc=["acc_a"]),
    "version as text": lambda: with_claims(ver="3"),
    "payload a list": lambda: forged(HEADER, [PAYLOAD]),
    "payload a number": lambda: forged(HEADER, 1),
    "header a list": lambda: forged([HEADER], PAYLOAD),
    "five kilobytes": lambda: with_claims(more="x" * 4096),
    "nested": lambda: forged({**HEADER, "cty": "JWT"}, GOOD),
    "padded base64": lambda: GOOD + "=",
    "newline": lambda: GOOD + "\n",
    "three dots": lambda: GOOD + ".x",
    "only dots": lambda: "..",
    "no letters of it": lambda: "ü.ü.ü",
    **{f"without {claim}": lambda c=claim: without(c) for claim in PAYLOAD},  # type: ignore[misc]  # mypy types no lambda with a default
}


def test_a_token_says_who_calls_for_whom() -> None:
    claims = TOKENS.read(GOOD)

    assert (claims.user, claims.account, claims.version, claims.session) == ("usr_a", "acc_a", 3, "ses_a")
    assert claims.expires_at == NOON + timedelta(minutes=15)
    assert looks_like_one(GOOD)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_refused(name: str) -> None:
    token = FORGED[name]()

    with pytest.raises(AuthenticationFailed) as refused:
        TOKENS.read(token)

    assert refused.value.message == "The access token is wrong, expired or was ended."


def test_clocks_may_differ_by_half_a_minute() -> None:
    clock = ManualClock(NOON)
    tokens = AccessTokens(SECRET, life=timedelta(minutes=15), clock=clock)
    ahead = AccessTokens(SECRET, life=timedelta(minutes=15), clock=ManualClock(NOON + timedelta(seconds=29)))

    assert tokens.read(ahead.issue(UserId("usr_a"), AccountId("acc_a"), 0, session="ses_a")).version == 0
    clock.advance(15 * 60 + 29)
    assert tokens.read(GOOD).version == 3
    clock.advance(1)
    with pytest.raises(AuthenticationFailed):
        tokens.read(GOOD)


def test_a_new_secret_still_reads_the_tokens_of_the_one_before() -> None:
    rotated = AccessTokens(
        b"another secret, of forty bytes or so....", life=timedelta(1), before=SECRET, clock=CLOCK
    )

    assert rotated.read(GOOD).user == "usr_a"
    with pytest.raises(AuthenticationFailed):
        TOKENS.read(rotated.issue(UserId("usr_a"), AccountId("acc_a"), 3, session="ses_a"))


def test_a_short_secret_signs_nothing() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AccessTokens(b"short", life=timedelta(1))


@given(st.text(max_size=200))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(AuthenticationFailed):
        TOKENS.read(text)


def test_the_key_id_says_nothing_of_the_secret() -> None:
    assert HEADER["kid"] not in hashlib.sha256(SECRET).hexdigest()
