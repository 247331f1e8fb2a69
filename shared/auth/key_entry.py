"""What Redis holds of a key: its principal, or the mark that it was revoked.

    (nothing) --> principal --> revoked --> (nothing, by TTL)
        │            ^  │          ^
        │            │  v          │
        │         unusable         │
        └──────────────────────────┘

A principal is never written over the mark. So a process that read the key's row before
the revocation, and writes what it read after it, cannot bring the key back. Nor is one
written over another that was read later, by the count of changes it carries. What may become
usable again (its user is disabled, or left the account) is marked as unusable under such a count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

import orjson

from shared import keyspace
from shared.db.repositories.principals import Holder
from shared.domain.allowance import Allowance, Limits, Scope, Tier
from shared.domain.job import Lane
from shared.domain.principal import Preference, Principal, known_failures
from shared.domain.roles import Permission, Role
from shared.ids import AccountId, ApiKeyId, CredentialId
from shared.queue.redis_link import RedisLink

_REVOKED: Final = b"revoked"

_STORE: Final = """
local held = redis.call('GET', KEYS[1])
if held == ARGV[3] then return 0 end
if held then
  local readable, entry = pcall(cjson.decode, held)
  local count = readable and type(entry) == 'table' and tonumber(entry.at) or 0
  if count > tonumber(ARGV[4]) then return entry.unusable and 0 or 1 end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""


class Mark(Enum):
    MISSING = "missing"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """`age_seconds`: since a database was asked about the key, by Redis' own clock.

    `version`: what an access token must carry, where it is of a member's sessions.
    """

    principal: Principal
    expires_at: datetime | None
    age_seconds: float = 0.0
    version: int | None = None

    @classmethod
    def of(cls, holder: Holder) -> KeyEntry:
        return cls(holder.principal, holder.expires_at, version=holder.version)

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at


class KeyEntries:
    """The entries of one Redis; `ttl_seconds` is also what age is counted from, so it must not vary."""

    def __init__(self, link: RedisLink, *, ttl_seconds: int) -> None:
        self._link = link
        self._ttl_seconds = ttl_seconds

    async def read(self, digest: str) -> tuple[KeyEntry | Mark, int]:
        """The entry, and the count of changes: read a row only after it, and store what it says under it."""
        key = keyspace.api_key(digest)
        value, left_ms, version = await asyncio.gather(
            self._link.execute("GET", key),
            self._link.execute("PTTL", key),
            self._link.execute("GET", keyspace.KEY_VERSION),
        )
        found: KeyEntry | Mark = Mark.MISSING
        if value == _REVOKED:
            found = Mark.REVOKED
        elif value is not None:
            found = _decode(value, age_seconds=self._ttl_seconds - left_ms / 1000)
        return found, int(version or 0)

    async def store(self, digest: str, entry: KeyEntry, *, version: int) -> bool:
        """Keep an entry just read from the database, unless a later one is there.

        False when the key was revoked meanwhile, or became unusable.
        """
        return bool(
            await self._link.execute("EVAL", *self._storing(digest, _encode(entry, version), version))
        )

    async def store_all(self, entries: Mapping[str, KeyEntry], *, version: int) -> None:
        """The same for several, by digest."""
        storing = (self.store(digest, entry, version=version) for digest, entry in entries.items())
        await asyncio.gather(*storing)

    async def mark_unusable(self, digest: str, *, version: int) -> None:
        """Until an entry is stored that was read under a later count. Whoever finds it asks the database."""
        mark = orjson.dumps({"at": version, "unusable": True}).decode()
        await self._link.execute("EVAL", *self._storing(digest, mark, version))

    def _storing(self, digest: str, encoded: str, version: int) -> tuple[str, int, str, str, str, str, str]:
        key, ttl = keyspace.api_key(digest), str(self._ttl_seconds)
        return _STORE, 1, key, encoded, ttl, _REVOKED.decode(), str(version)

    async def extend(self, digest: str) -> None:
        """Keep the entry longer, while the database cannot be asked."""
        await self._link.execute("EXPIRE", keyspace.api_key(digest), self._ttl_seconds)

    async def has_ended(self, session: str) -> bool:
        return bool(await self._link.execute("EXISTS", keyspace.session_ended(session)))

    async def mark_ended(self, session: str, *, seconds: int) -> None:
        """`seconds`: as long as an access token of the session could still be good."""
        await self._link.execute("SET", keyspace.session_ended(session), "1", "EX", seconds)

    async def mark_revoked(self, digest: str) -> None:
        await self._link.execute("SET", keyspace.api_key(digest), _REVOKED, "EX", self._ttl_seconds)


def _encode(entry: KeyEntry, version: int) -> str:
    """What goes without saying is left out."""
    principal = entry.principal
    fields: dict[str, Any] = {
        "account": principal.account,
        "key": principal.api_key,
        "expires": None if entry.expires_at is None else entry.expires_at.timestamp(),
        "at": version,
        "version": entry.version,
        "lane": principal.lane if principal.lane is not Lane.INTERACTIVE else None,
        "user": principal.user,
        "role": principal.role if principal.role is not Role.SERVICE else None,
        "scopes": None if principal.scopes is None else sorted(principal.scopes),
        "operator": principal.is_operator or None,
        "models": principal.models,
        "providers": principal.providers,
        "allow": [[a.scope, a.id, a.tier, a.limits.to_fields()] for a in principal.allowances] or None,
        "credentials": principal.credentials or None,
        "counted": principal.counted_as,
    }
    if (preference := principal.preference) is not None:
        fields["prefers"] = {
            "model": preference.model,
            "then": preference.fallback_models,
            "on": sorted(preference.fallback_on),
        }
    kept = {name: value for name, value in fields.items() if value is not None or name == "expires"}
    return orjson.dumps(kept).decode()


def _decode(value: bytes, *, age_seconds: float) -> KeyEntry | Mark:
    try:
        fields: dict[str, Any] = orjson.loads(value)
        expires = fields["expires"]
        scopes, models, providers = fields.get("scopes"), fields.get("models"), fields.get("providers")
        return KeyEntry(
            principal=Principal(
                account=AccountId(fields["account"]),
                api_key=ApiKeyId(fields["key"]),
                preference=_preference(fields.get("prefers")),
                lane=Lane(fields.get("lane", Lane.INTERACTIVE)),
                user=fields.get("user"),
                role=Role(fields.get("role", Role.SERVICE)),
                scopes=None if scopes is None else frozenset(map(Permission, scopes)),
                is_operator=fields.get("operator", False),
                models=None if models is None else tuple(models),
                providers=None if providers is None else tuple(providers),
                allowances=tuple(
                    Allowance(Scope(scope), name, Limits.from_fields(limits), Tier(tier))
                    for scope, name, tier, limits in fields.get("allow", ())
                ),
                credentials=tuple(
                    (provider, CredentialId(credential))
                    for provider, credential in fields.get("credentials", ())
                ),
                counted_as=fields.get("counted"),
            ),
            expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
            age_seconds=age_seconds,
            version=fields.get("version"),
        )
    except (ValueError, KeyError, TypeError):
        # Another version's form of an entry: ask the database and write it anew.
        return Mark.MISSING


def _preference(fields: dict[str, Any] | None) -> Preference | None:
    if fields is None:
        return None
    return Preference(fields["model"], tuple(fields["then"]), known_failures(fields["on"]))
