"""The public keys of a token issuer (JWKS, RFC 7517): fetched through the guard, and kept.

    known, fetched lately ──> the key
    known, older          ──> the key, and the set is fetched anew beside it
    unknown               ──> the set is fetched anew, at most once a minute; then the key, or none

While the issuer is down its keys stay good for a day. Only public keys that can sign are kept, each
with the algorithms that both its kind and the settings allow: a token's header chooses among these
alone, so that no public key is ever taken for a shared secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import orjson
from loguru import logger

from shared.clock import Clock
from shared.egress.rules import EgressFailed
from shared.egress.transport import GuardedTransport, fetch
from shared.errors import Overloaded
from shared.settings import IssuerSettings

FRESH_SECONDS: Final = 3600.0
STALE_SECONDS: Final = 86_400.0
AGAIN_SECONDS: Final = 60.0
"""Between two fetches: made-up key ids are cheap."""
AFTER_FAILURE_SECONDS: Final = 5.0
MAX_KEYS: Final = 100
_ALGORITHMS: Final[Mapping[tuple[str, str | None], frozenset[str]]] = {
    ("RSA", None): frozenset({"RS256", "PS256"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
"""By kind and curve."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    key: Any
    algorithms: frozenset[str]


class KeySet:
    """One an issuer and process."""

    def __init__(self, issuer: IssuerSettings, transport: GuardedTransport, clock: Clock) -> None:
        self._issuer = issuer
        self._transport = transport
        self._clock = clock
        self._keys: Mapping[str, SigningKey] = {}
        self._fetched_at = float("-inf")
        self._next_fetch = float("-inf")
        self._failed = False
        self._fetch: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> SigningKey | None:
        """None: the issuer has no such key. Raises Overloaded while nobody can tell."""
        now = self._clock.monotonic()
        known = self._keys.get(key_id) if now < self._fetched_at + STALE_SECONDS else None
        if known is not None and now < self._fetched_at + FRESH_SECONDS:
            return known
        fetching = self._fetching(now)
        if known is not None:
            return known
        if fetching is not None:
            # Shielded: a caller who leaves must not take the answer from the others.
            await asyncio.shield(fetching)
        found = self._keys.get(key_id)
        usable = self._clock.monotonic() < self._fetched_at + STALE_SECONDS
        if self._failed and (found is None or not usable):
            raise Overloaded(
                "The access token cannot be checked at the moment.", retry_after_seconds=AFTER_FAILURE_SECONDS
            )
        return found

    async def aclose(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.gather(self._fetch, return_exceptions=True)

    def _fetching(self, now: float) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one if it is time for one."""
        if self._fetch is None and now >= self._next_fetch:
            self._next_fetch = now + AGAIN_SECONDS
            self._fetch = asyncio.create_task(self._fetch_all(), name="key-set")
            self._fetch.add_done_callback(self._fetched)
        return self._fetch

    def _fetched(self, _: asyncio.Task[None]) -> None:
        self._fetch = None

    async def _fetch_all(self) -> None:
        try:
            answer = await fetch(self._issuer.jwks_url, self._transport)
            body = answer.content if answer.status_code == 200 else b""
            self._keys = read_key_set(body, self._issuer.algorithms)
        except (EgressFailed, ValueError, KeyError, TypeError) as exc:
            cause = exc.cause if isinstance(exc, EgressFailed) else "answer"
            logger.warning("key set not fetched", issuer=self._issuer.issuer, cause=cause)
            self._failed = True
            self._next_fetch = self._clock.monotonic() + AFTER_FAILURE_SECONDS
            return
        self._failed = False
        self._fetched_at = self._clock.monotonic()


def read_key_set(body: bytes, algorithms: tuple[str, ...]) -> dict[str, SigningKey]:
    """Those that can verify one of `algorithms`, by key id. Raises ValueError, KeyError or TypeError."""
    found: dict[str, SigningKey] = {}
    for each in orjson.loads(body)["keys"][:MAX_KEYS]:
        try:
            allowed = _algorithms_of(each) & frozenset(algorithms)
            key_id = each["kid"]
            if allowed and isinstance(key_id, str):
                found[key_id] = SigningKey(jwt.PyJWK(each, min(allowed)).key, allowed)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            # One odd key is no reason to refuse those who were signed with another.
            continue
    return found


def _algorithms_of(each: dict[str, Any]) -> frozenset[str]:
    kind, curve = each.get("kty"), each.get("crv")
    operations = each.get("key_ops", ["verify"])
    # A private or a symmetric key in public is nobody's any more.
    if {"d", "k"} & each.keys() or each.get("use", "sig") != "sig" or "verify" not in operations:
        return frozenset()
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return frozenset()
    allowed = _ALGORITHMS.get((kind, curve), frozenset())
    return allowed if "alg" not in each else allowed & {each["alg"]}
