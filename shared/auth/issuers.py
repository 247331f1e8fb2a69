"""Access tokens of others: JWTs of the issuers that the settings name, for accounts that are here.

    token ──> its `iss` ──> that issuer's key set ──> signature, audience, times ──> account and role

What such a token's holder may do is its role's in the account; tier, limits and credentials are the
account's. There is no user for it here: it has no keys of its own, and never operates the broker.
It is good until it expires: nothing here ends it before, save closing the account's door.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import jwt
import orjson

from shared.auth.access_tokens import LEEWAY, MAX_TOKEN_CHARS, looks_like_one
from shared.auth.key_sets import KeySet
from shared.clock import Clock, SystemClock
from shared.domain.principal import Principal
from shared.domain.roles import PERMISSIONS, Role
from shared.egress.transport import GuardedTransport
from shared.errors import AuthenticationFailed
from shared.ids import AccountId, ApiKeyId
from shared.settings import IssuerSettings

_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REQUIRED: Final = ("exp", "iat", "sub", "iss", "aud")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_OTHER_USES: Final = frozenset({"id", "refresh", "logout", "offline"})
"""`typ` in the payload, as Keycloak writes it."""
_MAX_SUBJECT_CHARS: Final = 255


@dataclass(frozen=True, slots=True)
class ForeignClaims:
    """`caller`: the same for the same subject of the same issuer, and says nothing of either."""

    caller: ApiKeyId
    account: AccountId
    role: Role
    expires_at: datetime

    def within(self, account: Principal) -> Principal:
        """`account`: what all of its have in common."""
        return replace(account, api_key=self.caller, role=self.role, scopes=None)


class Issuers:
    """One a process."""

    def __init__(
        self,
        issuers: Iterable[IssuerSettings],
        transport: GuardedTransport,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._by_name: Mapping[str, tuple[IssuerSettings, KeySet]] = {
            issuer.issuer: (issuer, KeySet(issuer, transport, self._clock)) for issuer in issuers
        }

    def know(self, token: str) -> bool:
        """Whether it says to be of one of them. Nothing is verified."""
        return self._named_by(token) is not None

    async def read(self, token: str) -> ForeignClaims:
        """Raises AuthenticationFailed, whatever is wrong with it; Overloaded while nobody can tell."""
        named = self._named_by(token)
        if named is None:
            raise _refused()
        issuer, key_set = named
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as exc:
            raise _refused() from exc
        key_id, algorithm, kind = header.get("kid"), header.get("alg"), header.get("typ", "JWT")
        if not isinstance(key_id, str) or not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise _refused()
        # Before any key is asked for: what the settings do not allow fetches nothing.
        if algorithm not in issuer.algorithms:
            raise _refused()
        key = await key_set.find(key_id)
        if key is None or algorithm not in key.algorithms:
            raise _refused()
        return self._claims(_payload(token, key.key, algorithm, issuer), issuer)

    async def aclose(self) -> None:
        for _, key_set in self._by_name.values():
            await key_set.aclose()

    def _named_by(self, token: str) -> tuple[IssuerSettings, KeySet] | None:
        if not looks_like_one(token) or len(token) > MAX_TOKEN_CHARS or not _FORM.fullmatch(token):
            return None
        body = token.split(".")[1]
        try:
            payload = orjson.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error):
            return None
        name = payload.get("iss") if isinstance(payload, dict) else None
        return self._by_name.get(name) if isinstance(name, str) else None

    def _claims(self, payload: dict[str, Any], issuer: IssuerSettings) -> ForeignClaims:
        now, leeway = self._clock.now().timestamp(), LEEWAY.total_seconds()
        late, starts = payload["exp"], (payload["iat"], payload.get("nbf", payload["iat"]))
        # RFC 7519 allows fractions; a boolean is a number to Python alone.
        if not all(type(moment) in {int, float} for moment in (late, *starts)):
            raise _refused()
        if not late > now - leeway or not max(starts) <= now + leeway or late > now + 10 * 366 * 86_400:
            raise _refused()
        subject, use = payload["sub"], payload.get("typ", "")
        if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT_CHARS:
            raise _refused()
        if isinstance(use, str) and use.lower() in _OTHER_USES:
            raise _refused()
        account = issuer.account or payload.get(issuer.account_claim or "")
        if not isinstance(account, str) or not _ACCOUNT.fullmatch(account):
            raise _refused()
        digest = hashlib.sha256(f"{issuer.issuer}\n{subject}".encode()).hexdigest()[:24]
        return ForeignClaims(
            ApiKeyId(f"ext_{digest}"),
            AccountId(account),
            _role(payload, issuer),
            datetime.fromtimestamp(late, UTC),
        )


def _payload(token: str, key: Any, algorithm: str, issuer: IssuerSettings) -> dict[str, Any]:
    try:
        payload: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=issuer.audience,
            issuer=issuer.issuer,
            options={
                "require": list(_REQUIRED),
                # Times are checked by our clock.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "enforce_minimum_key_length": True,
            },
        )
    except (jwt.PyJWTError, TypeError, ValueError, AttributeError) as exc:
        raise _refused() from exc
    return payload


def _role(payload: dict[str, Any], issuer: IssuerSettings) -> Role:
    """The one that may most, of those that the claim names."""
    named = payload.get(issuer.role_claim) if issuer.role_claim is not None else None
    words = named if isinstance(named, list) else [named]
    known = [role for role in Role if role.value in words]
    return max(known, key=lambda role: len(PERMISSIONS[role]), default=Role(issuer.role))


def _refused() -> AuthenticationFailed:
    return AuthenticationFailed("The access token is wrong or expired.")
