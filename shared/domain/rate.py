"""Rates and durations as people write them: `100/15m`, `24h`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

_UNITS: Final = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d{1,9})(ms|s|m|h|d|)\Z")


def seconds_of(text: str) -> float | None:
    """`15m`, `24h`, `900` (seconds), `500ms`; None for what is not above 0 or no duration."""
    found = _DURATION.match(text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    return seconds or None


def text_of(seconds: float) -> str:
    """The other way round, in the largest unit that says it whole."""
    whole = int(seconds)
    for unit in ("h", "m"):
        if whole == seconds and whole % _UNITS[unit] == 0:
            return f"{int(whole // _UNITS[unit])}{unit}"
    return f"{seconds:g}s"


@dataclass(frozen=True, slots=True)
class Rate:
    """`requests` in any `window_seconds`."""

    requests: int
    window_seconds: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Raises ValueError that says what was expected."""
        number, slash, window = text.partition("/")
        seconds = seconds_of(window) if slash else None
        if not number.isdecimal() or int(number) < 1 or seconds is None or seconds != int(seconds):
            raise ValueError("must be such as 100/15m: requests, and a window of whole seconds")
        return cls(int(number), int(seconds))
