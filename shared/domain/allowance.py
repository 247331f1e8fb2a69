"""How much somebody may use: of requests, tokens, calls at once, and money.

A job is measured against the allowance of its key, of its user and of its account; the
tightest one counts. None means: no limit of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self


class Scope(StrEnum):
    """Whose allowance it is."""

    KEY = "key"
    USER = "user"
    ACCOUNT = "account"
    ADDRESS = "address"
    """Where somebody who has not said who he is asks from."""


class Tier(StrEnum):
    """Which rate policy an account is under (settings, `limits`)."""

    STANDARD = "standard"
    PAID = "paid"
    UNLIMITED = "unlimited"
    """No policy: only what the limits themselves say."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`window_requests` in any `window_seconds`; days and months are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    window_requests: int | None = None
    window_seconds: int | None = None
    daily_requests: int | None = None
    monthly_requests: int | None = None
    monthly_spend_micro_usd: int | None = None

    def __bool__(self) -> bool:
        return self != NO_LIMITS

    def to_fields(self) -> dict[str, int]:
        """What is stored of it: the limits there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_fields(cls, stored: Mapping[str, Any] | None) -> Self:
        """Names that only a later release knows are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in (stored or {}).items() if name in known})


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Allowance:
    """`id`: of the key, the user or the account. `tier`: of an account."""

    scope: Scope
    id: str
    limits: Limits = NO_LIMITS
    tier: Tier = Tier.UNLIMITED

    @property
    def is_unlimited(self) -> bool:
        return self.tier is Tier.UNLIMITED and not self.limits
