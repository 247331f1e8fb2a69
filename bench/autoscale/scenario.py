"""What is simulated, and what came of it: one form for the exact model, the fast one and the live run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.autoscale.hpa import Spec

Floats: TypeAlias = npt.NDArray[np.float64]

SCRAPE_SECONDS: Final = 15.0
RULE_SECONDS: Final = 15.0
"""As in deploy/prometheus/prometheus.yml: every how long Prometheus scrapes, and evaluates rules."""


@dataclass(frozen=True, slots=True)
class Service:
    """How long a job holds its slot. `cv`: standard deviation over mean, of a log-normal; 0 is fixed."""

    mean_seconds: float
    cv: float = 0.0

    def draw(self, rng: np.random.Generator) -> float:
        if not self.cv:
            return self.mean_seconds
        mu, sigma = self._parameters()
        return float(rng.lognormal(mu, sigma))

    def shares(self, tick: float) -> Floats:
        """Of jobs that start, what part ends one tick later, two ticks later, and so on."""
        longest = self.mean_seconds * (1 + 8 * self.cv) + 2 * tick
        edges = (np.arange(math.ceil(longest / tick) + 1) + 1.5) * tick
        if not self.cv:
            ended = np.clip((edges - self.mean_seconds) / tick + 0.5, 0, 1)
        else:
            mu, sigma = self._parameters()
            ended = np.array([_normal((math.log(edge) - mu) / sigma) for edge in edges])
        shares = np.diff(np.concatenate([[0.0], ended]))
        return np.asarray(shares / shares.sum())

    def _parameters(self) -> tuple[float, float]:
        sigma = math.sqrt(math.log(1 + self.cv**2))
        return math.log(self.mean_seconds) - sigma**2 / 2, sigma


def _normal(deviations: float) -> float:
    return 0.5 * (1 + math.erf(deviations / math.sqrt(2)))


@dataclass(frozen=True, slots=True)
class Bursts:
    """A Markov-modulated Poisson process: now and then `factor` times the rate, for a while."""

    factor: float
    every_seconds: float
    last_seconds: float


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """Of the provider's account; 0 is none."""

    calls_per_minute: float = 0.0
    concurrency: int = 0

    @property
    def burst(self) -> float:
        """What may start at once, as shared/limits/scripts/state.lua has it: ten seconds' worth."""
        return max(1.0, self.calls_per_minute / 6)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`rates`: from which second on how many jobs arrive a second. `slots`: of one pod.

    `start_seconds`: from the HPA's word to a worker that takes jobs. `drain_seconds`: how long a pod
    that goes may still run its jobs before it hands them back, to run anew. The autoscaler reads what
    was scraped last when the recording rule was evaluated last.
    """

    spec: Spec
    slots: int
    service: Service
    rates: tuple[tuple[float, float], ...]
    seconds: float
    pods: int = 1
    start_seconds: float = 30.0
    drain_seconds: float = 30.0
    scrape_seconds: float = SCRAPE_SECONDS
    rule_seconds: float = RULE_SECONDS
    bursts: Bursts | None = None
    limits: ProviderLimits = field(default_factory=ProviderLimits)

    def pieces(self, rng: np.random.Generator) -> list[tuple[float, float, float]]:
        """From, to, jobs a second: what this run's bursts make of the rates."""
        turns = [(start, 1.0) for start, _ in self.rates[:1]]
        if self.bursts is not None:
            at = 0.0
            while at < self.seconds:
                at += rng.exponential(self.bursts.every_seconds)
                turns.append((at, self.bursts.factor))
                at += rng.exponential(self.bursts.last_seconds)
                turns.append((at, 1.0))
        edges = sorted({at for at, _ in (*self.rates, *turns) if at < self.seconds} | {self.seconds})
        return [
            (start, end, _at(self.rates, start) * _at(turns, start))
            for start, end in itertools.pairwise(edges)
        ]


def _at(steps: Sequence[tuple[float, float]], moment: float) -> float:
    return [value for start, value in steps if start <= moment][-1]


@dataclass(slots=True)
class Trace:
    """Samples of a run, and what was counted in it."""

    at: list[float] = field(default_factory=list)
    queued: list[int] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    """Asked for."""
    ready: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    """By the metric alone."""
    oldest_seconds: list[float] = field(default_factory=list)
    arrived: int = 0
    ended: int = 0
    handed_back: int = 0

    def add(
        self, at: float, *, queued: int, in_flight: int, replicas: int, ready: int, wanted: int, oldest: float
    ) -> None:
        self.at.append(round(at, 3))
        self.queued.append(queued)
        self.in_flight.append(in_flight)
        self.replicas.append(replicas)
        self.ready.append(ready)
        self.wanted.append(wanted)
        self.oldest_seconds.append(round(oldest, 2))


@dataclass(frozen=True, slots=True)
class Absorbed:
    """How a step of the load was taken.

    `seconds`: from the step until jobs, queued and in flight, are no more than the target of the
    pods that are ready; None if never. `waiting_seconds`: until nobody waits. `back_seconds`: from the
    end of the load until as few pods are asked for as before.
    """

    seconds: float | None
    waiting_seconds: float | None
    peak_queued: int
    peak_oldest_seconds: float
    most_ready: int
    back_seconds: float | None

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def absorbed(trace: Trace, *, target: float, step_at: float, end_at: float) -> Absorbed:
    """`step_at`: when the load rose; `end_at`: when it fell."""
    rows = list(
        zip(
            *(trace.at, trace.queued, trace.in_flight, trace.ready, trace.replicas, trace.oldest_seconds),
            strict=True,
        )
    )
    before = [row for row in rows if row[0] <= step_at]
    during = [row for row in rows if step_at < row[0] <= end_at]
    after = [row for row in rows if row[0] > end_at]
    over = next((i for i, row in enumerate(during) if row[1] + row[2] > target * row[3]), None)
    seconds = waiting = None
    if over is not None:
        # Not at the first good moment before the load is felt: behind the worst one.
        worst = max(range(over, len(during)), key=lambda i: during[i][1])
        seconds = next(
            (row[0] - step_at for row in during[worst:] if row[1] + row[2] <= target * row[3]), None
        )
        waiting = next((row[0] - step_at for row in during[worst:] if row[1] == 0), None)
    fewest = before[-1][4] if before else 0
    return Absorbed(
        seconds=_rounded(seconds),
        waiting_seconds=_rounded(waiting),
        peak_queued=max((row[1] for row in during), default=0),
        peak_oldest_seconds=max((row[5] for row in during), default=0.0),
        most_ready=max((row[3] for row in rows), default=0),
        back_seconds=_rounded(next((row[0] - end_at for row in after if row[4] <= fewest), None)),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
