"""Loads that no machine here could carry, in the fast model with the HPA as shipped.

Each: a calm load for ten minutes, then twice that for twenty, then the calm one again, with bursts on
top. Slots of a pod, its target, the policies and Prometheus' periods are the manifests'.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from bench.autoscale import fluid
from bench.autoscale.hpa import SHIPPED, SHIPPED_SLOTS
from bench.autoscale.scenario import Bursts, ProviderLimits, Scenario, Service, Trace, absorbed

STEP_AT: Final = 600.0
END_AT: Final = 1800.0
SECONDS: Final = 2700.0
SERVICE: Final = Service(mean_seconds=4.8, cv=1.0)
START_SECONDS: Final = 20.0
BURSTS: Final = Bursts(factor=1.5, every_seconds=300, last_seconds=20)
_RUNS: Final = 9
JOBS_PER_MINUTE: Final = (1_000, 10_000, 100_000, 1_000_000)


def scenario(jobs_per_minute: float, *, slots: int = SHIPPED_SLOTS, share: float = 0.8) -> Scenario:
    rate = jobs_per_minute / 60
    target = slots * share
    steady = math.ceil(rate * SERVICE.mean_seconds / target)
    spec = replace(SHIPPED, target=target, max_replicas=max(SHIPPED.max_replicas, 2 * steady))
    return Scenario(
        spec=spec,
        slots=slots,
        service=SERVICE,
        rates=((0.0, rate / 2), (STEP_AT, rate), (END_AT, rate / 2)),
        seconds=SECONDS,
        pods=max(spec.min_replicas, math.ceil(steady / 2)),
        start_seconds=START_SECONDS,
        bursts=BURSTS,
    )


def table(seed: int) -> list[dict[str, Any]]:
    return [{"jobs_per_minute": jobs, **_row(scenario(jobs), seed)} for jobs in JOBS_PER_MINUTE]


def targets(seed: int) -> list[dict[str, Any]]:
    """The same load with other targets: what head-room costs, and what it saves in waiting."""
    return [
        {"share": share, **_row(scenario(100_000, share=share), seed)} for share in (0.5, 0.65, 0.8, 0.95)
    ]


def provider_limit(seed: int) -> list[dict[str, Any]]:
    """The same load where the provider's account takes less of it."""
    whole = scenario(100_000)
    rows = []
    for name, limits in (
        ("none", ProviderLimits()),
        ("90,000 calls a minute", ProviderLimits(calls_per_minute=90_000)),
        ("6,000 calls at once", ProviderLimits(concurrency=6_000)),
    ):
        rows.append({"limit": name, **_row(replace(whole, limits=limits), seed)})
    return rows


def million(seed: int) -> tuple[Trace, dict[str, Any]]:
    """10^6 jobs a minute; how long the model took for it."""
    one = scenario(1_000_000)
    began = time.perf_counter()
    trace = fluid.simulate(one, seed=seed, sample_seconds=15)
    took = time.perf_counter() - began
    return trace, {
        "simulated_minutes": one.seconds / 60,
        "jobs": trace.arrived,
        "took_seconds": round(took, 2),
        "max_replicas": one.spec.max_replicas,
    }


def _row(one: Scenario, seed: int) -> dict[str, Any]:
    """Medians of some runs, for where bursts fall is chance; of the oldest job's wait, the worst."""
    runs = [fluid.simulate(one, seed=seed + number, sample_seconds=1) for number in range(_RUNS)]
    taken = [absorbed(run, target=one.spec.target, step_at=STEP_AT, end_at=END_AT) for run in runs]
    return {
        "pods_before": one.pods,
        "pods_steady": max(
            one.spec.min_replicas,
            math.ceil(one.rates[1][1] * one.service.mean_seconds / one.spec.target),
        ),
        "pods_most": _median([max(run.replicas) for run in runs]),
        "pods_mean": _median([sum(run.replicas) / len(run.replicas) for run in runs]),
        "jobs": _median([run.arrived for run in runs]),
        "handed_back": _median([run.handed_back for run in runs]),
        "seconds": _median([one.seconds for one in taken]),
        "peak_queued": _median([one.peak_queued for one in taken]),
        "peak_oldest_seconds": max(one.peak_oldest_seconds for one in taken),
        "back_seconds": _median([one.back_seconds for one in taken]),
        "waited_share": _median(
            [sum(age > 1 for age in run.oldest_seconds) / len(run.at) for run in runs], 3
        ),
    }


def _median(values: Sequence[float | None], digits: int = 1) -> float | None:
    """None is never: longer than any time."""
    middle = statistics.median_low([math.inf if value is None else value for value in values])
    return None if math.isinf(middle) else round(middle, digits)
