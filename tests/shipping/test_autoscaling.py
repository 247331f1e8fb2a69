"""The autoscaler's loop over real workers, the two models beside each other, and what the page says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.autoscale import exact, fluid, live, report, sizing
from bench.autoscale.hpa import SHIPPED, TARGET_SHARE
from bench.autoscale.live_scenario import END_AT, LIVE, STEP_AT
from bench.autoscale.scenario import Bursts, ProviderLimits, Scenario, Service, Trace, absorbed

SLOTS = 2
STEP = Scenario(
    spec=replace(SHIPPED.faster(100), target=SLOTS * TARGET_SHARE, min_replicas=1, max_replicas=3),
    slots=SLOTS,
    service=Service(mean_seconds=0.4),
    rates=((0.0, 0.5), (1.0, 10.0), (4.0, 0.5)),
    seconds=5.0,
    scrape_seconds=0.15,
    rule_seconds=0.15,
)


async def test_a_load_step_brings_workers_and_takes_them_again_and_no_job_is_lost() -> None:
    found = await live.run(STEP, seed=1, forks=True, wait_seconds=40)

    assert max(found.trace.ready) == 3
    assert found.trace.replicas[0] == found.trace.replicas[-1] == 1
    assert len(found.accepted) > 20
    assert not found.refused
    assert found.ended == {"succeeded": len(found.accepted)}
    assert (found.lost, found.doubles) == (0, 0)
    assert found.calls == len(found.accepted)
    assert found.exit_codes == [0] * (len(found.start_seconds) - found.trace.ready[-1] + 1)


SMALL = Scenario(
    spec=replace(SHIPPED, target=8, max_replicas=40),
    slots=10,
    service=Service(mean_seconds=4.0, cv=0.7),
    rates=((0.0, 5.0), (120.0, 25.0), (420.0, 5.0)),
    seconds=1200.0,
    pods=3,
)
VARIANTS = {
    "a step": SMALL,
    "short calls": replace(SMALL, service=Service(mean_seconds=1.0)),
    "bursts": replace(SMALL, bursts=Bursts(factor=2, every_seconds=60, last_seconds=15)),
    "calls a minute": replace(SMALL, limits=ProviderLimits(calls_per_minute=1_200)),
    "calls at once": replace(SMALL, limits=ProviderLimits(concurrency=80)),
    "hands back": replace(SMALL, service=Service(mean_seconds=10.0, cv=1.0), drain_seconds=5.0),
}


def figures(traces: list[Trace]) -> dict[str, float]:
    """Means of several runs."""
    return {
        "ended": float(np.mean([trace.ended for trace in traces])),
        "in flight": float(np.mean([np.mean(trace.in_flight) for trace in traces])),
        "queued": float(np.mean([np.mean(trace.queued) for trace in traces])),
        "peak queued": float(np.mean([max(trace.queued) for trace in traces])),
        "replicas": float(np.mean([np.mean(trace.replicas) for trace in traces])),
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_the_fast_model_says_what_the_exact_one_says(name: str) -> None:
    scenario = VARIANTS[name]

    one_by_one = figures([exact.simulate(scenario, seed=seed) for seed in range(8)])
    by_ticks = figures([fluid.simulate(scenario, seed=seed) for seed in range(100, 140)])

    print(name, one_by_one, by_ticks)
    assert by_ticks["ended"] == pytest.approx(one_by_one["ended"], rel=0.05)
    assert by_ticks["in flight"] == pytest.approx(one_by_one["in flight"], rel=0.1)
    assert by_ticks["replicas"] == pytest.approx(one_by_one["replicas"], rel=0.1)
    assert by_ticks["queued"] == pytest.approx(one_by_one["queued"], rel=0.35, abs=3)
    assert by_ticks["peak queued"] == pytest.approx(one_by_one["peak queued"], rel=0.35, abs=10)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_model_loses_or_invents_a_job(name: str) -> None:
    # A last half hour without arrivals: all that came ended.
    empty = replace(VARIANTS[name], rates=(*VARIANTS[name].rates, (900.0, 0.0)), seconds=2700.0)

    for trace in (exact.simulate(empty, seed=3), fluid.simulate(empty, seed=3)):
        assert trace.arrived > 1000
        assert (trace.ended, trace.queued[-1], trace.in_flight[-1]) == (trace.arrived, 0, 0)


def test_a_queue_that_one_slot_serves_is_as_long_as_theory_says() -> None:
    """M/D/1 at 80 %: rho^2 / (2 (1 - rho)) = 1.6 wait on average (Pollaczek and Khinchine)."""
    alone = replace(SHIPPED, min_replicas=1, max_replicas=1)
    queue = Scenario(alone, 1, Service(mean_seconds=1.0), ((0.0, 0.8),), seconds=60_000)

    waiting = np.mean(exact.simulate(queue, seed=5, sample_seconds=1).queued)

    assert waiting == pytest.approx(1.6, rel=0.1)


def test_a_thousand_pods_take_a_million_jobs_a_minute_in_the_model() -> None:
    trace, figures = sizing.million(1)

    assert figures["simulated_minutes"] >= 30
    assert figures["jobs"] > 1_000_000 * (sizing.END_AT - sizing.STEP_AT) / 60
    assert max(trace.replicas) >= 1000
    assert trace.ended > 0.99 * trace.arrived


# What is committed


def committed() -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads(report.LIVE_JSON.read_text()), json.loads(report.MODEL_JSON.read_text())


def test_the_committed_run_went_to_eight_workers_and_back_and_lost_nothing() -> None:
    found, _ = committed()

    assert (found["lost"], found["doubles"], found["refused"]) == (0, 0, {})
    assert found["ended"] == {"succeeded": found["accepted"]}
    assert max(found["trace"]["ready"]) == 8
    assert found["trace"]["replicas"][0] == found["trace"]["replicas"][-1] == 1
    assert set(found["exit_codes"]) == {0}


def test_the_committed_run_was_over_as_soon_as_the_model_predicts() -> None:
    found, reckoned = committed()

    assert reckoned["measured"] == {name: found["absorbed"][name] for name in report.COMPARED}
    assert found["absorbed"]["seconds"] <= reckoned["predicted"]["seconds"]["high"]


def test_the_page_shows_what_the_commands_wrote() -> None:
    page = report.PAGE.read_text(encoding="utf-8")

    assert report.with_tables(page, *committed()) == page
    for picture in ("step", "million"):
        assert f"autoscaling/{picture}.svg" in page
        assert (report.FOLDER / f"{picture}.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_pages_prediction_is_what_the_model_says_today() -> None:
    found, reckoned = committed()
    scenario = report.as_measured(found)

    trace = exact.simulate(scenario, seed=found["seed"])

    taken = absorbed(trace, target=LIVE.spec.target, step_at=STEP_AT, end_at=END_AT)
    assert report.compact(trace) == reckoned["trace"]
    assert taken.peak_queued <= reckoned["predicted"]["peak_queued"]["high"] * 1.5
