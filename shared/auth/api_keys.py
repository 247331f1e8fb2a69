"""The form of an API key: `gw_live_` + public id (8) + secret (43) + checksum (6), in base62.

The public id names the key in lists and logs. The secret is 32 random bytes, so one fast
HMAC is digest enough: there is nothing to guess. The checksum, a CRC-32 of all before it,
tells a key from a typo, and lets secret scanners find leaked keys without asking us.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zlib import crc32

from shared.db.repositories.api_keys import ApiKeyRecord
from shared.ids import AccountId, ApiKeyId

PREFIX: Final = "gw_live_"
MIN_PEPPER_BYTES: Final = 32

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PUBLIC_CHARS: Final = 8
_SECRET_BYTES: Final = 32
_SECRET_CHARS: Final = 43
_CHECK_CHARS: Final = 6
_KEY: Final = re.compile(
    rf"{PREFIX}(?P<public>[0-9A-Za-z]{{{_PUBLIC_CHARS}}})"
    rf"[0-9A-Za-z]{{{_SECRET_CHARS}}}(?P<check>[0-9A-Za-z]{{{_CHECK_CHARS}}})"
)


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a well-formed key says about itself; only a digest found in a store says that it is good."""

    public_id: str

    @property
    def id(self) -> ApiKeyId:
        return ApiKeyId(f"key_{self.public_id}")


def mint(
    pepper: bytes,
    *,
    account: AccountId,
    name: str,
    now: datetime,
    expires_at: datetime | None = None,
    created_by: str | None = None,
) -> tuple[str, ApiKeyRecord]:
    """A new key and what to store of it. The key is shown once: nothing stored gives it back."""
    public_id = "".join(secrets.choice(_ALPHABET) for _ in range(_PUBLIC_CHARS))
    secret = _base62(int.from_bytes(secrets.token_bytes(_SECRET_BYTES)), _SECRET_CHARS)
    body = f"{PREFIX}{public_id}{secret}"
    token = body + _checksum(body)
    record = ApiKeyRecord(
        id=ParsedKey(public_id).id,
        account_id=account,
        name=name,
        digest=digest(pepper, token),
        prefix=PREFIX + public_id,
        last4=token[-4:],
        created_at=now,
        created_by=created_by,
        expires_at=expires_at,
    )
    return token, record


def parse(token: str) -> ParsedKey | None:
    """None when it cannot be a key of ours: nothing then needs to be asked of a store."""
    match = _KEY.fullmatch(token)
    if match is None or _checksum(token[:-_CHECK_CHARS]) != match["check"]:
        return None
    return ParsedKey(match["public"])


def digest(pepper: bytes, token: str) -> str:
    """HMAC-SHA256 of the whole token, in hex: the only form in which a key is stored."""
    return hmac.digest(pepper, token.encode(), "sha256").hex()


def _checksum(body: str) -> str:
    return _base62(crc32(body.encode()), _CHECK_CHARS)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
