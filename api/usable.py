"""Whether any target of a plan takes calls at the moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.domain.conditions import UNKNOWN, BreakerState, ProviderCondition
from shared.domain.job import DEFAULT_CREDENTIAL, Target
from shared.errors import ProviderUnavailable
from shared.queue.producer import honest_wait


def require_usable(
    plan: Sequence[Target], conditions: Mapping[str, ProviderCondition], *, budget_ms: int
) -> None:
    """Raises ProviderUnavailable where every target is known to take no calls, for its breaker is open
    or it limits our rate for longer than the caller waits. A queue would only hold what cannot be done.
    """
    if not conditions:
        return
    waits = []
    for target in plan:
        if target.credential != DEFAULT_CREDENTIAL:
            return  # what is known is known of the broker's own account there
        wait = _closed_for(conditions.get(target.provider, UNKNOWN), budget_ms)
        if wait is None:
            return
        waits.append(wait)
    error = ProviderUnavailable(
        "No provider that could serve this request takes calls at the moment.",
        provider=plan[0].provider,
        code="provider_unavailable",
        status=503,
        retry_after_seconds=honest_wait(min(waits)),
    )
    raise error


def _closed_for(condition: ProviderCondition, budget_ms: int) -> float | None:
    """Seconds; None where a job sent now would be tried in time."""
    if condition.breaker is BreakerState.OPEN:
        return condition.open_seconds
    if condition.paused_seconds * 1000 > budget_ms:
        return condition.paused_seconds
    return None
