"""How urgent a request is: until when its caller waits, and in which lane it does."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from shared.domain.job import Lane
from shared.domain.principal import Principal
from shared.errors import InvalidRequest

DEADLINE: Final = "x-request-timeout"
_SDK_PATIENCE: Final = ("x-stainless-timeout", "x-stainless-read-timeout")
"""What the official clients say of their own patience, in seconds."""
_A_LITTLE_SECONDS: Final = 0.25
"""Added to that, so that it is the client that gives up, and raises what its caller expects then."""
PRIORITY: Final = "x-headrace-priority"

_SECONDS: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s)?\Z")
_LANE_OF_TIER: Final[Mapping[str, Lane]] = {"priority": Lane.INTERACTIVE, "flex": Lane.BATCH}
"""OpenAI's `service_tier`; its other values leave it to the key."""
_RANK: Final = {lane: rank for rank, lane in enumerate(Lane)}
"""Higher lanes first."""


def budget_ms(
    headers: Mapping[str, str],
    document: dict[str, Any],
    *,
    most_seconds: float,
    stream: bool,
    comes_back_seconds: float = 0.0,
) -> int:
    """How long the caller waits. Takes `timeout_seconds` out of `document`.

    The header X-Request-Timeout wins (`2.5`, `2.5s` or `2500ms`), then that field, then the timeout
    of an official client, which would not read an answer that comes later. (Of a stream it is the
    longest silence, so it does not count; nor does it with an Idempotency-Key, whose caller will ask
    again for what it did not wait for. One that counts its tries does so within `comes_back_seconds`.)
    Never more than the setting. Raises InvalidRequest.
    """
    wish = document.pop("timeout_seconds", None)
    if DEADLINE in headers:
        seconds = _seconds(headers[DEADLINE])
        if seconds is None:
            raise InvalidRequest(
                "X-Request-Timeout must be a number of seconds above 0, such as 2.5 or 2500ms.",
                param="X-Request-Timeout",
            )
    elif wish is not None:
        if isinstance(wish, bool) or not isinstance(wish, int | float) or not 0 < wish < math.inf:
            raise InvalidRequest("timeout_seconds must be a number above 0.", param="timeout_seconds")
        seconds = float(wish)
    else:
        counts = not stream and "idempotency-key" not in headers
        patience = [_seconds(headers[name]) for name in _SDK_PATIENCE if name in headers and counts]
        more = _A_LITTLE_SECONDS + comes_back_seconds
        seconds = min((s + more for s in patience if s is not None), default=most_seconds)
    return max(1, int(min(seconds, most_seconds) * 1000))


def lane_of(headers: Mapping[str, str], document: Mapping[str, Any], principal: Principal) -> Lane:
    """The lane asked for, by header or by OpenAI's `service_tier`; never above the key's own.

    Raises InvalidRequest.
    """
    wish = headers.get(PRIORITY)
    if wish is None:
        tier = document.get("service_tier")
        lane = _LANE_OF_TIER.get(tier, principal.lane) if isinstance(tier, str) else principal.lane
    else:
        try:
            lane = Lane(wish.lower())
        except ValueError:
            raise InvalidRequest(f"{PRIORITY} must be one of {', '.join(Lane)}.", param=PRIORITY) from None
    return max(lane, principal.lane, key=_RANK.__getitem__)


def _seconds(text: str) -> float | None:
    found = _SECONDS.match(text.strip())
    if found is None:
        return None
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1)
    return seconds if seconds > 0 else None
