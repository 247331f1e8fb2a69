"""What a provider says of its rate limits in the headers of an answer.

    x-ratelimit-{limit,remaining,reset}-{requests,tokens}                        OpenAI and most others
    anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}
    ratelimit-{limit,remaining,reset}, x-ratelimit-{limit,remaining,reset}       requests alone

A reset is a duration ("6m0s", "76ms"), seconds, a moment in seconds or milliseconds since the
epoch, or RFC 3339; all become a moment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|us|µs|ns|m|s))+\Z")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
_EPOCH_SECONDS: Final = 1e9
"""A bare number from here on is a moment: no limit resets in thirty years."""
_EPOCH_MILLISECONDS: Final = 1e12
_SUBJECTS: Final = ("requests", "tokens", "input-tokens", "output-tokens")


@dataclass(frozen=True, slots=True)
class Limit:
    """`reset_at`: when all of `limit` is there again. What the provider left out is None."""

    limit: int | None = None
    remaining: int | None = None
    reset_at: datetime | None = None

    def to_fields(self) -> dict[str, Any]:
        return {
            "limit": self.limit,
            "remaining": self.remaining,
            "reset_at": None if self.reset_at is None else self.reset_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Limits:
    requests: Limit | None = None
    tokens: Limit | None = None
    input_tokens: Limit | None = None
    output_tokens: Limit | None = None

    def to_fields(self) -> dict[str, Any]:
        """JSON values; limits that were not said are left out."""
        found = {
            name: getattr(self, name) for name in ("requests", "tokens", "input_tokens", "output_tokens")
        }
        return {name: limit.to_fields() for name, limit in found.items() if limit is not None}


def read_limits(headers: Mapping[str, str], now: datetime) -> Limits | None:
    """`headers` by lower-case name. None where they say nothing of limits."""
    found: dict[str, Limit] = {}
    for subject in _SUBJECTS:
        limit = _limit(headers, f"anthropic-ratelimit-{subject}-%s", now) or _limit(
            headers, f"x-ratelimit-%s-{subject}", now
        )
        if limit is not None:
            found[subject.replace("-", "_")] = limit
    if "requests" not in found:
        plain = _limit(headers, "x-ratelimit-%s", now) or _limit(headers, "ratelimit-%s", now)
        if plain is not None:
            found["requests"] = plain
    return Limits(**found) if found else None


def reset_moment(text: str | None, now: datetime) -> datetime | None:
    """The moment that `text` means, in UTC; None for what is none of the forms above."""
    text = (text or "").strip()
    if not text:
        return None
    if _DURATION.match(text):
        return _later(now, sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))
    try:
        number = float(text)
    except ValueError:
        return _rfc_3339(text)
    if not math.isfinite(number) or number < 0:
        return None
    if number < _EPOCH_SECONDS:
        return _later(now, number)
    seconds = number / 1000 if number >= _EPOCH_MILLISECONDS else number
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _limit(headers: Mapping[str, str], name: str, now: datetime) -> Limit | None:
    limit, remaining = _count(headers.get(name % "limit")), _count(headers.get(name % "remaining"))
    if limit is None and remaining is None:
        return None
    return Limit(limit, remaining, reset_moment(headers.get(name % "reset"), now))


def _count(text: str | None) -> int | None:
    # RFC drafts of RateLimit-Limit put policies behind a comma.
    head = (text or "").partition(",")[0].partition(";")[0].strip()
    return int(head) if head.isascii() and head.isdigit() and len(head) <= 18 else None


def _later(now: datetime, seconds: float) -> datetime | None:
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        return None


def _rfc_3339(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
