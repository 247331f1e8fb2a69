"""Access tokens: short-lived JWTs that say which user calls, for which account.

    header   {"alg": "HS256", "kid": <digest of the secret>, "typ": "JWT"}
    payload  {"iss", "aud", "sub": user, "acc": account, "ver": token version, "sid": session, "jti",
              "iat", "nbf", "exp", "typ": "access"}

The key id alone decides the algorithm; the header's own word for it must agree. A token says who
somebody is, never what he may do: that is asked of the stores, as it is for keys.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt

from shared.clock import Clock, SystemClock
from shared.errors import AuthenticationFailed
from shared.ids import AccountId, UserId
from shared.settings import Settings

ISSUER: Final = "headrace"
AUDIENCE: Final = "headrace"
ALGORITHM: Final = "HS256"
LEEWAY: Final = timedelta(seconds=30)
MAX_TOKEN_CHARS: Final = 4096
MIN_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""Base64 without padding: one token has one spelling."""
_REQUIRED: Final = ("exp", "iat", "nbf", "sub", "jti", "iss", "aud")


@dataclass(frozen=True, slots=True)
class Claims:
    """`version`: of the user's tokens; one that is behind is of a session that was ended."""

    user: UserId
    account: AccountId
    version: int
    session: str
    expires_at: datetime


def looks_like_one(token: str) -> bool:
    return token.count(".") == 2


class AccessTokens:
    """`secret`: at least 32 bytes. `before`: the one it took the place of, whose tokens are still good."""

    def __init__(
        self, secret: bytes, *, life: timedelta, before: bytes | None = None, clock: Clock | None = None
    ) -> None:
        secrets = [secret] if before is None else [secret, before]
        if any(len(one) < MIN_SECRET_BYTES for one in secrets):
            raise ValueError(f"a secret that signs tokens has at least {MIN_SECRET_BYTES} bytes")
        self._keys: Mapping[str, bytes] = {_key_id(one): one for one in secrets}
        self._key_id = _key_id(secret)
        self._clock = clock or SystemClock()
        self.life = life

    def issue(self, user: UserId, account: AccountId, version: int, *, session: str) -> str:
        now = self._clock.now()
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user,
            "acc": account,
            "ver": version,
            "sid": session,
            "jti": os.urandom(12).hex(),
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int((now + self.life).timestamp()),
            "typ": "access",
        }
        return jwt.encode(payload, self._keys[self._key_id], ALGORITHM, headers={"kid": self._key_id})

    def read(self, token: str) -> Claims:
        """Raises AuthenticationFailed, whatever is wrong with it."""
        payload = self._payload(token)
        user, account, version = payload.get("sub"), payload.get("acc"), payload.get("ver")
        session, expires = payload.get("sid"), payload.get("exp")
        if (
            payload.get("typ") != "access"
            or not isinstance(user, str)
            or not isinstance(account, str)
            or not isinstance(session, str)
            or not isinstance(version, int)
            or not isinstance(expires, int)
        ):
            raise _refused()
        return Claims(
            UserId(user), AccountId(account), version, session, datetime.fromtimestamp(expires, UTC)
        )

    def _payload(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN_CHARS or not _FORM.fullmatch(token):
            raise _refused()
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                raise _refused()
            # Times are checked below, by our clock.
            payload: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={
                    "require": list(_REQUIRED),
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "strict_aud": True,
                    "enforce_minimum_key_length": True,
                },
            )
        except (jwt.PyJWTError, TypeError, ValueError, AttributeError) as exc:
            raise _refused() from exc
        now = self._clock.now().timestamp()
        early, late = payload["nbf"], payload["exp"]
        times = (early, payload["iat"], late)
        if not all(type(moment) is int for moment in times):
            raise _refused()
        leeway = LEEWAY.total_seconds()
        if max(early, payload["iat"]) > now + leeway or late <= now - leeway:
            raise _refused()
        return payload


def access_tokens(settings: Settings) -> AccessTokens | None:
    """None where there is no secret to sign them with."""
    if settings.jwt_secret is None:
        return None
    before = settings.jwt_secret_before
    return AccessTokens(
        settings.jwt_secret.get_secret_value().encode(),
        life=timedelta(seconds=settings.jwt_expiry),
        before=None if before is None else before.get_secret_value().encode(),
    )


def _key_id(secret: bytes) -> str:
    """Tells secrets apart and says nothing of them."""
    return hashlib.sha256(b"headrace jwt key id\n" + secret).hexdigest()[:16]


def _refused() -> AuthenticationFailed:
    return AuthenticationFailed("The access token is wrong, expired or was ended.")
