"""How a provider does right now, as workers tell and the router reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shared.domain.job import Lane


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class ProviderCondition:
    """What is unknown is at its default: nobody is turned away for want of news.

    `open_seconds`: until its breaker lets a probe through; `paused_seconds`: until its lanes are
    read again, after it refused for its rate.
    `queued`: jobs no worker has, `queued_in` by lane; `in_flight`: jobs a worker has; `slots`: of all
    live `workers`.
    `drained_per_second`: jobs that its workers can end, by what they did while they were busy.
    `latency_seconds`: by model, averaged over its last calls.
    """

    breaker: BreakerState = BreakerState.CLOSED
    open_seconds: float = 0.0
    paused_seconds: float = 0.0
    queued: int = 0
    in_flight: int = 0
    workers: int = 0
    slots: int = 0
    drained_per_second: float = 0.0
    latency_seconds: Mapping[str, float] = field(default_factory=dict)
    queued_in: Mapping[Lane, int] = field(default_factory=dict)

    def ahead_of(self, lane: Lane) -> int:
        """Jobs in higher lanes, which go first."""
        if lane is Lane.INTERACTIVE or not self.queued_in:
            return 0
        higher = list(Lane)[: list(Lane).index(lane)]
        return sum(self.queued_in.get(other, 0) for other in higher)

    @property
    def is_usable(self) -> bool:
        """Whether a job sent there now would be tried at once, as far as its provider is concerned."""
        return self.breaker is not BreakerState.OPEN and self.paused_seconds <= 0


UNKNOWN: ProviderCondition = ProviderCondition()
