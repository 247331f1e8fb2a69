"""`Prefer: respond-async` and `Prefer: wait=10`: how long a caller wants to hold its connection.

Source: RFC 7240. What it says of other things, or wrongly, is passed over, as it asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

APPLIED: Final = b"preference-applied"
_WAIT: Final = re.compile(r"wait\s*=\s*\"?(\d{1,6})\"?\Z", re.IGNORECASE)
MOST_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Preference:
    """`wait_seconds`: then the caller is told where its answer will be; 0 tells it at once."""

    wait_seconds: float
    text: bytes


def preference_of(headers: Mapping[str, str]) -> Preference | None:
    """None where the caller said nothing of it, and so holds its connection until the answer."""
    said = headers.get("prefer")
    if said is None:
        return None
    wait: float | None = None
    at_once = False
    for part in said.split(","):
        word = part.partition(";")[0].strip()
        if word.lower() == "respond-async":
            at_once = True
        elif (found := _WAIT.match(word)) is not None and wait is None:
            wait = min(float(found[1]), MOST_SECONDS)
    if wait is not None:
        applied = b"respond-async, wait=%d" % wait if at_once else b"wait=%d" % wait
        return Preference(wait, applied)
    return Preference(0.0, b"respond-async") if at_once else None
