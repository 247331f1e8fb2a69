"""Whether and when a failed provider call is tried again."""

from __future__ import annotations

from random import Random

from shared.errors import BrokerError
from shared.settings import QueueSettings


def full_jitter(attempt: int, *, base: float, cap: float, rng: Random) -> float:
    """Seconds to wait before retry `attempt` (0-based): backoff with full jitter.

    Uniform on [0, min(cap, base * 2**attempt)].
    Source: M. Brooker, "Exponential Backoff and Jitter", AWS, 2015.
    """
    return rng.uniform(0.0, min(cap, base * 2**attempt))


def retry_delay(
    error: BrokerError, *, attempts: int, emitted: int, settings: QueueSettings, rng: Random
) -> float | None:
    """Seconds until the next attempt, None when this failure is final.

    `attempts`: calls that failed before this one. Nothing is repeated once its reader has
    seen a part of it. A provider's Retry-After wins over jitter (RFC 9110, 10.2.3).
    """
    if not error.retryable or emitted or attempts + 1 >= settings.max_attempts:
        return None
    jitter = full_jitter(attempts, base=settings.retry_base_seconds, cap=settings.retry_cap_seconds, rng=rng)
    return max(jitter, error.retry_after_seconds or 0.0)
