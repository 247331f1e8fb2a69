"""The HorizontalPodAutoscaler (autoscaling/v2) for one external metric with an AverageValue target.

    total of the metric -> replicas by the target -> stabilised -> within policies and bounds

As kube-controller-manager does it (`pkg/controller/podautoscaler`) and
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ says; both read 2026-11.
Time is passed in, in seconds of any clock that does not go back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

SYNC_SECONDS: Final = 15.0
"""`--horizontal-pod-autoscaler-sync-period` by default."""
TOLERANCE: Final = 0.1
"""`--horizontal-pod-autoscaler-tolerance` by default."""


class PolicyType(StrEnum):
    PODS = "Pods"
    PERCENT = "Percent"


class Select(StrEnum):
    """Which of several policies counts: the one that allows the most change, the least, or none."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Policy:
    type: PolicyType
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one direction."""

    policies: tuple[Policy, ...]
    stabilization_seconds: float
    select: Select = Select.MAX


DEFAULT_UP: Final = Rules((Policy(PolicyType.PERCENT, 100, 15), Policy(PolicyType.PODS, 4, 15)), 0)
DEFAULT_DOWN: Final = Rules((Policy(PolicyType.PERCENT, 100, 15),), 300)
"""What Kubernetes takes where `behavior` says nothing."""


@dataclass(frozen=True, slots=True)
class Spec:
    """`target`: AverageValue, the metric that one replica is worth."""

    target: float
    min_replicas: int = 1
    max_replicas: int = 10
    up: Rules = DEFAULT_UP
    down: Rules = DEFAULT_DOWN
    tolerance: float = TOLERANCE
    sync_seconds: float = SYNC_SECONDS

    def faster(self, times: float) -> Spec:
        """Every period so many times as short."""

        def of(rules: Rules) -> Rules:
            policies = tuple(
                replace(policy, period_seconds=policy.period_seconds / times) for policy in rules.policies
            )
            return replace(
                rules, policies=policies, stabilization_seconds=rules.stabilization_seconds / times
            )

        return replace(self, up=of(self.up), down=of(self.down), sync_seconds=self.sync_seconds / times)


SHIPPED: Final = Spec(
    target=80,
    min_replicas=2,
    max_replicas=20,
    up=DEFAULT_UP,
    down=Rules((Policy(PolicyType.PERCENT, 25, 60),), 300),
)
"""As in k8s/base/worker/worker.yaml: a test holds the two together."""
SHIPPED_SLOTS: Final = 100
TARGET_SHARE: Final = 0.8
"""Of a worker's slots, what its target is."""


class Autoscaler:
    """The controller's memory of one HPA: what it recommended and did, as far back as anything asks."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._recommended: list[tuple[float, int]] = []
        self._added: list[tuple[float, int]] = []
        self._removed: list[tuple[float, int]] = []
        self.wanted = 0
        """By the metric alone, at the last sync that had one."""

    def sync(self, now: float, *, replicas: int, total: float | None, status_replicas: int = -1) -> int:
        """One turn of the loop: the replicas there shall be.

        `replicas`: those asked for so far (the scale's spec). `status_replicas`: those there are, not yet
        ready ones included, terminating ones not; by default as many. `total`: the metric summed over
        its series, None where it cannot be had.
        """
        spec = self.spec
        if not self._recommended:
            self._recommended.append((now, replicas))
        if replicas == 0 and spec.min_replicas > 0:
            return 0  # switched off by hand
        if replicas > spec.max_replicas:
            desired = spec.max_replicas
        elif replicas < spec.min_replicas:
            desired = spec.min_replicas
        elif total is None:
            return replicas
        else:
            there = replicas if status_replicas < 0 else status_replicas
            self.wanted = wanted_replicas(total, spec, there)
            desired = self._within_policies(now, replicas, self._stabilized(now, replicas, self.wanted))
        if desired > replicas:
            self._added = [*_since(self._added, now, spec), (now, desired - replicas)]
        elif desired < replicas:
            self._removed = [*_since(self._removed, now, spec), (now, replicas - desired)]
        return desired

    def _stabilized(self, now: float, replicas: int, wanted: int) -> int:
        """The change that every recommendation of the window agrees with, at least."""
        up, down = self.spec.up.stabilization_seconds, self.spec.down.stabilization_seconds
        lowest = min([wanted, *(count for at, count in self._recommended if at > now - up)])
        highest = max([wanted, *(count for at, count in self._recommended if at > now - down)])
        self._recommended = [one for one in self._recommended if one[0] >= now - max(up, down)]
        self._recommended.append((now, wanted))
        return min(max(replicas, lowest), highest)

    def _within_policies(self, now: float, replicas: int, desired: int) -> int:
        spec = self.spec
        if desired > replicas:
            limit = max(replicas, self._limit(now, replicas, spec.up, sign=1))
            return min(desired, limit, spec.max_replicas)
        if desired < replicas:
            limit = min(replicas, self._limit(now, replicas, spec.down, sign=-1))
            return max(desired, limit, spec.min_replicas)
        return desired

    def _limit(self, now: float, replicas: int, rules: Rules, *, sign: int) -> int:
        if rules.select is Select.DISABLED:
            return replicas
        limits = []
        for policy in rules.policies:
            since = now - policy.period_seconds
            changed = sum(count for at, count in self._added if at > since)
            changed -= sum(count for at, count in self._removed if at > since)
            at_start = replicas - changed
            if policy.type is PolicyType.PODS:
                limits.append(at_start + sign * policy.value)
            else:
                share = at_start * (1 + sign * policy.value / 100)
                # Rounded so that a small pool can move at all.
                limits.append(math.ceil(share) if sign > 0 else int(share))
        most = max if sign > 0 else min
        least = min if sign > 0 else max
        return most(limits) if rules.select is Select.MAX else least(limits)


def wanted_replicas(total: float, spec: Spec, status_replicas: int) -> int:
    """What the metric alone asks for: as many as there are while it is close enough to the target."""
    if status_replicas > 0:
        ratio = total / (spec.target * status_replicas)
        if 1 - spec.tolerance <= ratio <= 1 + spec.tolerance:
            return status_replicas
    return math.ceil(total / spec.target)


def _since(events: list[tuple[float, int]], now: float, spec: Spec) -> list[tuple[float, int]]:
    longest = max((p.period_seconds for rules in (spec.up, spec.down) for p in rules.policies), default=0)
    return [event for event in events if event[0] >= now - longest]
