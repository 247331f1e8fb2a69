"""The model, event by event: each job by itself. For thousands of jobs; fluid.py takes millions."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from bench.autoscale.hpa import Autoscaler
from bench.autoscale.scenario import Scenario, Trace


class _Event(IntEnum):
    """In the order in which those of one moment happen."""

    END = 0
    READY = 1
    GIVE_UP = 2
    ARRIVAL = 3
    PERMIT = 4
    SCRAPE = 5
    RULE = 6
    SYNC = 7
    SAMPLE = 8


@dataclass(eq=False, slots=True)
class _Pod:
    is_ready: bool = False
    running: dict[int, float] = field(default_factory=dict)
    """Jobs, and when each of them came."""


def simulate(scenario: Scenario, *, seed: int, sample_seconds: float = 0.25) -> Trace:
    return _Run(scenario, seed, sample_seconds).run()


class _Run:
    def __init__(self, scenario: Scenario, seed: int, sample_seconds: float) -> None:
        self._scenario = scenario
        self._rng = np.random.default_rng(seed)
        self._sample_seconds = sample_seconds
        self._scaler = Autoscaler(scenario.spec)
        self._pods = [_Pod(is_ready=True) for _ in range(scenario.pods)]
        self._going: list[_Pod] = []
        self._waiting: deque[float] = deque()
        self._job = itertools.count()
        self._order = itertools.count()
        self._events: list[tuple[float, int, int, object]] = []
        self._scraped: float | None = None
        self._metric: float | None = None
        self._permits = scenario.limits.burst
        self._permits_at = 0.0
        self._asks_for_permit = False
        self._trace = Trace()

    def run(self) -> Trace:
        scenario, rng = self._scenario, self._rng
        for start, end, rate in scenario.pieces(rng):
            for at in rng.uniform(start, end, rng.poisson(rate * (end - start))):
                self._at(float(at), _Event.ARRIVAL)
        # Prometheus and the controller know nothing of each other, nor of when the load changes.
        for kind, every in (
            (_Event.SCRAPE, scenario.scrape_seconds),
            (_Event.RULE, scenario.rule_seconds),
            (_Event.SYNC, scenario.spec.sync_seconds),
        ):
            if every > 0:
                self._at(float(rng.uniform(0, every)), kind)
        self._at(0.0, _Event.SAMPLE)
        while self._events and self._events[0][0] <= scenario.seconds:
            now, event, _, what = heapq.heappop(self._events)
            self._happen(now, _Event(event), what)
        return self._trace

    def _at(self, when: float, event: _Event, what: object = None) -> None:
        heapq.heappush(self._events, (when, int(event), next(self._order), what))

    def _happen(self, now: float, event: _Event, what: object) -> None:
        scenario = self._scenario
        match event:
            case _Event.ARRIVAL:
                self._trace.arrived += 1
                self._waiting.append(now)
            case _Event.END:
                assert isinstance(what, tuple)
                pod, job = what
                if pod.running.pop(job, None) is not None:  # else it was handed back
                    self._trace.ended += 1
            case _Event.READY:
                assert isinstance(what, _Pod)
                what.is_ready = True
            case _Event.GIVE_UP:
                assert isinstance(what, _Pod)
                self._trace.handed_back += len(what.running)
                self._waiting.extendleft(sorted(what.running.values(), reverse=True))
                what.running.clear()
            case _Event.PERMIT:
                self._asks_for_permit = False
            case _Event.SCRAPE:
                self._scraped = self._total()
                self._at(now + scenario.scrape_seconds, event)
            case _Event.RULE:
                self._metric = self._scraped
                self._at(now + scenario.rule_seconds, event)
            case _Event.SYNC:
                metric = self._metric if scenario.rule_seconds > 0 else self._scraped
                self._scale(now, self._scaler.sync(now, replicas=len(self._pods), total=metric))
                self._at(now + scenario.spec.sync_seconds, event)
            case _Event.SAMPLE:
                self._sample(now)
                self._at(now + self._sample_seconds, event)
        self._start(now)

    def _total(self) -> int:
        return len(self._waiting) + self._in_flight()

    def _in_flight(self) -> int:
        return sum(len(pod.running) for pod in (*self._pods, *self._going))

    def _start(self, now: float) -> None:
        limits = self._scenario.limits
        while self._waiting:
            free = [pod for pod in self._pods if pod.is_ready and len(pod.running) < self._scenario.slots]
            if not free or (limits.concurrency and self._in_flight() >= limits.concurrency):
                return
            if limits.calls_per_minute and not self._take_permit(now):
                return
            pod = free[int(self._rng.integers(len(free)))]
            job = next(self._job)
            pod.running[job] = self._waiting.popleft()
            self._at(now + self._scenario.service.draw(self._rng), _Event.END, (pod, job))

    def _take_permit(self, now: float) -> bool:
        limits = self._scenario.limits
        rate = limits.calls_per_minute / 60
        self._permits = min(limits.burst, self._permits + (now - self._permits_at) * rate)
        self._permits_at = now
        if self._permits >= 1:
            self._permits -= 1
            return True
        if not self._asks_for_permit:
            self._asks_for_permit = True
            self._at(now + (1 - self._permits) / rate + 1e-9, _Event.PERMIT)
        return False

    def _scale(self, now: float, desired: int) -> None:
        while len(self._pods) < desired:
            pod = _Pod()
            self._pods.append(pod)
            self._at(now + self._scenario.start_seconds, _Event.READY, pod)
        # Those that are not ready go first, then the youngest.
        for pod in [*(one for one in self._pods[::-1] if not one.is_ready), *self._pods[::-1]]:
            if len(self._pods) <= desired:
                return
            if pod not in self._pods:
                continue
            self._pods.remove(pod)
            if pod.is_ready:
                self._going.append(pod)
                self._at(now + self._scenario.drain_seconds, _Event.GIVE_UP, pod)

    def _sample(self, now: float) -> None:
        self._going = [pod for pod in self._going if pod.running]
        self._trace.add(
            now,
            queued=len(self._waiting),
            in_flight=self._in_flight(),
            replicas=len(self._pods),
            ready=sum(pod.is_ready for pod in self._pods),
            wanted=self._scaler.wanted,
            oldest=now - self._waiting[0] if self._waiting else 0.0,
        )
