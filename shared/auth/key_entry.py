"""What Redis holds of a key: its principal, or the mark that it was revoked.

    (nothing) --> principal --> revoked --> (nothing, by TTL)
        └───────────────────────^

A principal is never written over the mark. So a process that read the key's row before
the revocation, and writes what it read after it, cannot bring the key back.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, cast

import orjson
from redis.asyncio import Redis

from shared import keyspace
from shared.db.repositories.api_keys import ApiKeyRecord
from shared.domain.principal import Principal
from shared.ids import AccountId, ApiKeyId

_REVOKED: Final = b"revoked"

_STORE_UNLESS_REVOKED: Final = """
if redis.call('GET', KEYS[1]) == ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""


class Mark(Enum):
    MISSING = "missing"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """`age_seconds`: since a database was asked about the key, by Redis' own clock."""

    principal: Principal
    expires_at: datetime | None
    age_seconds: float = 0.0

    @classmethod
    def of(cls, record: ApiKeyRecord) -> KeyEntry:
        return cls(Principal(account=record.account_id, api_key=record.id), record.expires_at)

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at


class KeyEntries:
    """The entries of one Redis; `ttl_seconds` is also what age is counted from, so it must not vary."""

    def __init__(self, redis: Redis, *, ttl_seconds: int) -> None:
        self._redis = redis
        self._ttl_seconds = ttl_seconds

    async def read(self, digest: str) -> KeyEntry | Mark:
        key = keyspace.api_key(digest)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.get(key)
            pipe.pttl(key)
            value, left_ms = await pipe.execute()
        if value is None:
            return Mark.MISSING
        if value == _REVOKED:
            return Mark.REVOKED
        return _decode(value, age_seconds=self._ttl_seconds - left_ms / 1000)

    async def store(self, digest: str, entry: KeyEntry) -> bool:
        """Keep an entry just read from the database; False when the key was revoked meanwhile."""
        key, ttl = keyspace.api_key(digest), str(self._ttl_seconds)
        stored = self._redis.eval(_STORE_UNLESS_REVOKED, 1, key, _encode(entry), ttl, _REVOKED.decode())
        return bool(await cast(Awaitable[int], stored))  # redis-py types one method for both its clients

    async def extend(self, digest: str) -> None:
        """Keep the entry longer, while the database cannot be asked."""
        await self._redis.expire(keyspace.api_key(digest), self._ttl_seconds)

    async def mark_revoked(self, digest: str) -> None:
        await self._redis.set(keyspace.api_key(digest), _REVOKED, ex=self._ttl_seconds)


def _encode(entry: KeyEntry) -> str:
    expires = None if entry.expires_at is None else entry.expires_at.timestamp()
    fields = {"account": entry.principal.account, "key": entry.principal.api_key, "expires": expires}
    return orjson.dumps(fields).decode()


def _decode(value: bytes, *, age_seconds: float) -> KeyEntry | Mark:
    try:
        fields: dict[str, Any] = orjson.loads(value)
        expires = fields["expires"]
        return KeyEntry(
            principal=Principal(account=AccountId(fields["account"]), api_key=ApiKeyId(fields["key"])),
            expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
            age_seconds=age_seconds,
        )
    except (ValueError, KeyError, TypeError):
        # Another version's form of an entry: ask the database and write it anew.
        return Mark.MISSING
