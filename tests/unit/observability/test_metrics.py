from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.domain.conditions import BreakerState, ProviderCondition
from shared.observability import metrics
from shared.observability.metrics import LatencyWindow


@dataclass(frozen=True)
class Depth:
    provider: str = "openai"
    lane: str = "standard"
    queued: int = 0
    in_flight: int = 0
    oldest_age_seconds: float = 0.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def value(text: bytes, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def series() -> int:
    families = text_string_to_metric_families(metrics.render().decode())
    return sum(len(family.samples) for family in families if family.name.startswith("gateway"))


@pytest.fixture(autouse=True)
def _providers() -> None:
    metrics.know_providers(["openai", "anthropic"])


def test_the_metrics_have_exactly_the_names_and_labels_that_were_asked_for() -> None:
    metrics.count_request("openai", "success", 0.25)
    metrics.count_tokens("openai", prompt=3, completion=4)
    metrics.count_error("openai", "rate_limit_error")

    text = metrics.render([Depth(queued=1, in_flight=2, oldest_age_seconds=3.5)])

    for name, labels in [
        ("gateway_requests_total", {"provider": "openai", "status": "success"}),
        ("gateway_request_duration_seconds", {"provider": "openai", "quantile": "0.95"}),
        ("gateway_request_duration_seconds_sum", {"provider": "openai"}),
        ("gateway_request_duration_seconds_count", {"provider": "openai"}),
        ("gateway_tokens_total", {"provider": "openai", "type": "prompt"}),
        ("gateway_tokens_total", {"provider": "openai", "type": "completion"}),
        ("gateway_errors_total", {"provider": "openai", "error_type": "rate_limit"}),
        ("gateway_queue_depth", {"provider": "openai", "lane": "standard"}),
        ("gateway_queue_oldest_age_seconds", {"provider": "openai", "lane": "standard"}),
        ("gateway_jobs_in_flight", {"provider": "openai", "lane": "standard"}),
    ]:
        assert value(text, name, **labels) is not None, name
    assert b"# TYPE gateway_request_duration_seconds summary" in text
    assert b"_created" not in text


def test_each_request_counts_once() -> None:
    before = value(metrics.render(), "gateway_requests_total", provider="anthropic", status="timeout") or 0

    metrics.count_request("anthropic", "timeout", 0.1)
    metrics.count_request("anthropic", "timeout", 0.1)

    assert (
        value(metrics.render(), "gateway_requests_total", provider="anthropic", status="timeout")
        == before + 2
    )


def test_labels_a_caller_could_invent_never_add_a_series() -> None:
    metrics.count_request("other", "other", 0.1)
    metrics.count_tokens("other", prompt=1, completion=1)
    metrics.count_error("other", "other")
    before = series()

    for number in range(20_000):
        metrics.count_request(f"provider-{number}", f"status-{number}", 0.1)
        metrics.count_tokens(f"provider-{number}", prompt=1, completion=1)
        metrics.count_error(f"provider-{number}", f"type-{number}")
    metrics.count_request(None, "other", 0.1)

    assert series() == before


def test_lanes_are_those_of_the_scrape_and_no_older_ones() -> None:
    first = metrics.render([Depth(provider="openai", queued=7)])
    second = metrics.render([])

    assert value(first, "gateway_queue_depth", provider="openai", lane="standard") == 7
    assert value(second, "gateway_queue_depth", provider="openai", lane="standard") is None


@pytest.mark.parametrize(
    ("status", "label"),
    [
        (200, "success"),
        (304, "success"),
        (400, "invalid"),
        (401, "unauthorized"),
        (413, "invalid"),
        (429, "rate_limit"),
        (499, "cancelled"),
        (500, "internal"),
        (502, "provider"),
        (503, "overloaded"),
        (504, "timeout"),
        (0, "internal"),
    ],
)
def test_every_status_has_a_label_of_the_closed_set(status: int, label: str) -> None:
    assert metrics.status_label(status) == label
    assert label in metrics.STATUSES


def test_breakers_pauses_and_slots_are_gauges_of_the_scrape() -> None:
    metrics.know_providers(["openai"])
    openai = ProviderCondition(breaker=BreakerState.OPEN, paused_seconds=1.5, slots=64)

    text = metrics.render(conditions={"openai": openai}).decode()

    assert 'gateway_breaker_state{provider="openai"} 2.0' in text
    assert 'gateway_provider_paused_seconds{provider="openai"} 1.5' in text
    assert 'gateway_provider_slots{provider="openai"} 64.0' in text
    assert "gateway_breaker_state{" not in metrics.render().decode()


def test_quantiles_are_within_a_percent_of_the_observations() -> None:
    rng = random.Random(7)
    seen = [rng.lognormvariate(-1, 1.5) for _ in range(10_000)]
    window = LatencyWindow(Clock())

    for seconds in seen:
        window.observe(seconds)

    seen.sort()
    for quantile, found in window.quantiles().items():
        assert found == pytest.approx(seen[math.ceil(quantile * len(seen)) - 1], rel=0.011)
    assert window.count == 10_000
    assert window.sum == pytest.approx(sum(seen))


def test_an_observation_is_forgotten_after_ten_minutes_but_stays_in_the_count() -> None:
    clock = Clock()
    window = LatencyWindow(clock)
    window.observe(9.0)

    clock.now = 9 * 60.0
    window.observe(1.0)
    assert window.quantiles()[0.99] == pytest.approx(9.0, rel=0.011)

    clock.now = 10 * 60.0
    assert window.quantiles()[0.99] == pytest.approx(1.0, rel=0.011)

    clock.now = 10_000.0
    assert math.isnan(window.quantiles()[0.5])
    assert window.count == 2


@pytest.mark.parametrize("seconds", [0.0, 1e-9, -1.0, 1e9])
def test_odd_durations_are_harmless(seconds: float) -> None:
    window = LatencyWindow(Clock())

    window.observe(seconds)

    assert window.quantiles()[0.5] >= 0
