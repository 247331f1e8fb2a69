"""Whether, when and where a failed provider call is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from shared.domain.job import FallbackOn
from shared.errors import BrokerError, ProviderError, ProviderRateLimited, ProviderRejected
from shared.providers.refusals import CONTENT_FILTER, CONTEXT_LENGTH
from shared.queue.consumer import Lease
from shared.settings import QueueSettings

_CURES: Final = {CONTEXT_LENGTH: FallbackOn.CONTEXT_LENGTH, CONTENT_FILTER: FallbackOn.CONTENT_FILTER}


def full_jitter(attempt: int, *, base: float, cap: float, rng: Random) -> float:
    """Seconds to wait before retry `attempt` (0-based): backoff with full jitter.

    Uniform on [0, min(cap, base * 2**attempt)].
    Source: M. Brooker, "Exponential Backoff and Jitter", AWS, 2015.
    """
    return rng.uniform(0.0, min(cap, base * 2**attempt))


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the same target again after `delay_seconds`. `counts`: a call failed, so an attempt is spent.

    `patient`: until the deadline if need be, as the target is well and only takes few calls at once.
    """

    delay_seconds: float
    counts: bool = True
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """Go to the next target of the plan."""


Step = Retry | Move | None
"""What follows a failure; None when it is final."""


def next_step(
    error: BrokerError, lease: Lease, *, emitted: int, settings: QueueSettings, rng: Random
) -> Step:
    """Nothing is repeated once its reader has seen a part of it (`emitted` events).

    A rate limit costs no attempt: the job moves on, or waits as long as the provider asks. Other
    passing failures are tried again at the same target, `max_attempts` calls in all, and then
    elsewhere. What lasts there (our key, our address of it) goes elsewhere at once. A judgement on
    the request itself is final, unless its plan says that another target may judge otherwise.
    """
    if emitted:
        return None
    onward = Move() if lease.job.next_target is not None else None
    if isinstance(error, ProviderRejected):
        return onward if _cured_by_moving(error, lease.job.fallback_on) else None
    if not isinstance(error, ProviderError):
        return None
    if isinstance(error, ProviderRateLimited):
        return onward or Retry(_delay(error, lease.hop_attempts, settings, rng), counts=False)
    if error.retryable and lease.hop_attempts + 1 < settings.max_attempts:
        return Retry(_delay(error, lease.hop_attempts, settings, rng))
    return onward


def _cured_by_moving(error: ProviderRejected, wanted: frozenset[FallbackOn]) -> bool:
    return _CURES.get(error.code or "") in wanted


def _delay(error: ProviderError, attempts: int, settings: QueueSettings, rng: Random) -> float:
    """A provider's Retry-After wins over jitter (RFC 9110, 10.2.3)."""
    jitter = full_jitter(attempts, base=settings.retry_base_seconds, cap=settings.retry_cap_seconds, rng=rng)
    return max(jitter, error.retry_after_seconds or 0.0)
