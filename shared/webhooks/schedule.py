"""When a webhook that was not taken is sent again, and when it is given up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Final

SCHEDULE: Final[Sequence[timedelta]] = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""The pauses after each failed try, the first of which is made at once; after the last it is given up.
Source: the schedule that Standard Webhooks suggests.
"""
FAILING_FOR: Final = timedelta(days=5)
"""How long an endpoint may fail without one success in between before it is disabled."""
LONGEST_WISH: Final = timedelta(hours=24)
"""What a receiver that asks for more time gets at most."""
_JITTER: Final = 0.1


def pause_after(
    failures: int,
    *,
    rng: Random,
    wished_seconds: float | None = None,
    schedule: Sequence[timedelta] = SCHEDULE,
) -> timedelta | None:
    """Until the next try, after so many failed ones; None where it was the last.

    Up to a tenth longer by chance, so that what failed together does not come back together. It is longer
    where the receiver wished so (Retry-After).
    """
    if failures > len(schedule):
        return None
    pause = schedule[failures - 1] * (1 + _JITTER * rng.random())
    if wished_seconds is None:
        return pause
    return max(pause, timedelta(seconds=wished_seconds))
