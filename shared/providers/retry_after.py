"""How long a provider, or whoever else is called, asks us to wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from shared.clock import Clock, SystemClock

MAX_SECONDS: Final = 60.0
"""A longer wish is cut to this: the router has other providers to try meanwhile."""


def retry_after_seconds(
    headers: Mapping[str, str], *, clock: Clock | None = None, at_most: float = MAX_SECONDS
) -> float | None:
    """Seconds within [0, `at_most`], or None without a usable wish. Header names are in lower case.

    `retry-after-ms` wins over `retry-after` (seconds or HTTP date, RFC 9110, 10.2.3),
    as in the official SDKs. A date is compared with the provider's own Date header
    where there is one, so that a skewed clock costs nothing.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamp(milliseconds / 1000, at_most)
    wish = headers.get("retry-after")
    seconds = _number(wish)
    if seconds is not None:
        return _clamp(seconds, at_most)
    until = _date(wish)
    if until is None:
        return None
    now = _date(headers.get("date")) or (clock or SystemClock()).now()
    return _clamp((until - now).total_seconds(), at_most)


def _clamp(seconds: float, at_most: float) -> float:
    return min(max(seconds, 0.0), at_most)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
