"""The model, tick by tick: how many jobs arrive, start and end, not which. Takes 10^6 jobs a minute.

Within a tick counts are drawn as the exact model's events would add up: arrivals from Poisson, ends of
what started from the multinomial of the service time. What a tick rounds is when in it things happen,
and jobs are not told apart by the pod that runs them.
"""

from __future__ import annotations

import numpy as np

from bench.autoscale.hpa import Autoscaler
from bench.autoscale.scenario import Scenario, Trace


def simulate(
    scenario: Scenario, *, seed: int, tick: float = 0.25, sample_seconds: float | None = None
) -> Trace:
    rng = np.random.default_rng(seed)
    return _Run(scenario, rng, tick, tick if sample_seconds is None else sample_seconds).run()


class _Run:
    def __init__(
        self, scenario: Scenario, rng: np.random.Generator, tick: float, sample_seconds: float
    ) -> None:
        self._scenario, self._rng, self._tick = scenario, rng, tick
        self._sample_seconds = sample_seconds
        self._scaler = Autoscaler(scenario.spec)
        self._shares = scenario.service.shares(tick)
        self._running = np.zeros(len(self._shares), dtype=np.int64)
        """On pods that stay, by the tick in which they end, from this one on."""
        self._going = np.zeros(len(self._shares), dtype=np.int64)
        self._handed_back: list[tuple[float, int]] = []
        self._replicas = self._ready = scenario.pods
        self._starting: list[tuple[float, int]] = []
        self._queued = 0
        self._permits = scenario.limits.burst
        self._trace = Trace()

    def run(self) -> Trace:
        scenario, rng, tick = self._scenario, self._rng, self._tick
        pieces = scenario.pieces(rng)
        count = round(scenario.seconds / tick)
        arrivals = rng.poisson(_per_tick(pieces, count, tick))
        arrived = np.cumsum(arrivals)
        scrape, rule, sync = (
            float(rng.uniform(0, every)) if every else 0.0
            for every in (scenario.scrape_seconds, scenario.rule_seconds, scenario.spec.sync_seconds)
        )
        scraped: float | None = None
        metric: float | None = None
        next_sample = 0.0
        for number in range(count):
            now = number * tick
            self._end()
            self._get_ready(now)
            self._queued += int(arrivals[number])
            self._start()
            if now >= scrape:
                scraped = float(self._queued + self._in_flight())
                scrape += scenario.scrape_seconds
            if scenario.rule_seconds <= 0:
                metric = scraped
            elif now >= rule:
                metric = scraped
                rule += scenario.rule_seconds
            if now >= sync:
                self._scale(now, self._scaler.sync(now, replicas=self._replicas, total=metric))
                sync += scenario.spec.sync_seconds
            if now >= next_sample - 1e-9:
                next_sample += self._sample_seconds
                self._sample(now, arrived, number)
        self._trace.arrived = int(arrived[-1])
        return self._trace

    def _end(self) -> None:
        for ring in (self._running, self._going):
            self._trace.ended += int(ring[0])
            ring[:-1] = ring[1:]
            ring[-1] = 0

    def _get_ready(self, now: float) -> None:
        self._ready += sum(count for at, count in self._starting if at <= now)
        self._starting = [one for one in self._starting if one[0] > now]
        back = sum(count for at, count in self._handed_back if at <= now)
        self._handed_back = [one for one in self._handed_back if one[0] > now]
        self._queued += back
        self._trace.handed_back += back

    def _in_flight(self) -> int:
        return int(self._running.sum() + self._going.sum()) + sum(count for _, count in self._handed_back)

    def _start(self) -> None:
        limits = self._scenario.limits
        free = self._ready * self._scenario.slots - int(self._running.sum())
        if limits.concurrency:
            free = min(free, limits.concurrency - self._in_flight())
        if limits.calls_per_minute:
            self._permits = min(limits.burst, self._permits + limits.calls_per_minute / 60 * self._tick)
            free = min(free, int(self._permits))
        starts = max(0, min(free, self._queued))
        self._permits -= starts
        self._queued -= starts
        if starts:
            self._running += self._rng.multinomial(starts, self._shares)

    def _scale(self, now: float, desired: int) -> None:
        if desired > self._replicas:
            self._starting.append((now + self._scenario.start_seconds, desired - self._replicas))
        surplus = max(0, self._replicas - desired)
        self._replicas = desired
        while surplus and self._starting:
            at, count = self._starting.pop()
            if count > surplus:
                self._starting.append((at, count - surplus))
            surplus -= min(count, surplus)
        if surplus:
            self._drain(now, surplus)

    def _drain(self, now: float, pods: int) -> None:
        leaving = self._rng.binomial(self._running, pods / self._ready)
        self._ready -= pods
        self._running -= leaving
        last = int(self._scenario.drain_seconds / self._tick)
        late = int(leaving[last:].sum())
        if late:
            leaving[last:] = 0
            self._handed_back.append((now + self._scenario.drain_seconds, late))
        self._going += leaving

    def _sample(self, now: float, arrived: np.typing.NDArray[np.int64], number: int) -> None:
        # First come, first served: the head of the queue came with so many behind it.
        oldest = 0.0
        if self._queued:
            head = int(arrived[number]) - self._queued
            came = int(np.searchsorted(arrived[: number + 1], head, side="right"))
            oldest = max(0.0, now - self._tick * came)
        self._trace.add(
            now,
            queued=self._queued,
            in_flight=self._in_flight(),
            replicas=self._replicas,
            ready=self._ready,
            wanted=self._scaler.wanted,
            oldest=oldest,
        )


def _per_tick(
    pieces: list[tuple[float, float, float]], count: int, tick: float
) -> np.typing.NDArray[np.float64]:
    """Jobs expected in each tick, also where a rate changes within one."""
    edges = np.arange(count + 1) * tick
    expected = np.zeros(count)
    for start, end, rate in pieces:
        expected += rate * np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None)
    return expected
