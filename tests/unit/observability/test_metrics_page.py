"""docs/operations/metrics.md lists the metrics there are, with the labels they have."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import Counter

from shared.domain.conditions import ProviderCondition
from shared.domain.usage import Outcome
from shared.observability import metrics
from shared.observability.metrics import READINGS, REGISTRY, Duty, Reading
from tests.unit.observability.test_metrics import Depth

PAGE = Path(__file__).parents[3] / "docs" / "operations" / "metrics.md"
ROW = re.compile(r"^\| `(gateway_[a-z_]+)` \| ([^|]*) \|", re.MULTILINE)
NAMED = re.compile(r"^    (gateway_[a-z_]+)(?:\{([a-z_,]+)\})?", re.MULTILINE)


def of_page() -> dict[str, set[str]]:
    return {
        name: set(re.findall(r"`(\w+)`", labels)) for name, labels in ROW.findall(PAGE.read_text("utf-8"))
    }


def exported() -> dict[str, set[str]]:
    """Of every metric once it has something to tell."""
    metrics.know_providers(["openai"])
    metrics.count_request("openai", "success", 0.1)
    metrics.count_tokens("openai", prompt=1, completion=1)
    metrics.count_error("openai", "timeout_error")
    metrics.count_refusal("queue_full")
    metrics.count_replay("single_flight")
    metrics.observe_wait("openai", "standard", 0.1)
    metrics.observe_call("openai", "success", 2.0, first_token_seconds=1.0, completion_tokens=5)
    metrics.count_held_back("openai", "paused")
    metrics.count_requeue("openai", "moved")
    metrics.count_ended("openai", "succeeded")
    metrics.count_round(Duty.PROMOTE, succeeded=True)
    metrics.count_settled("openai", Outcome.DEAD, prompt=1, completion=1, cached=0, cost_micro_usd=1)
    metrics.count_webhook(200, delivered=True)
    metrics.count_reconciled(queued=1, kept=0, expired=0)
    metrics.observe_loop_lag(0.1)
    readings = [Reading(name, 1, tuple("x" for _ in labels)) for name, (_, labels) in READINGS.items()]
    page = metrics.render([Depth()], {"openai": 1}, {"openai": ProviderCondition()}, readings).decode()
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(gateway_[a-z_]+)(?:\{(.*)\})? ", page, re.MULTILINE):
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        found.setdefault(family, set()).update(set(re.findall(r'(\w+)="', labels)) - {"le"})
    return found


def test_the_page_lists_every_metric_with_its_labels_and_no_other() -> None:
    assert of_page() == exported()


def test_so_does_the_module() -> None:
    told = {
        name: set(filter(None, labels.split(","))) for name, labels in NAMED.findall(metrics.__doc__ or "")
    }

    assert told == exported()


def test_what_is_not_known_counts_as_other() -> None:
    metrics.observe_call("nobody", "nonsense", 1.0)
    metrics.count_held_back("nobody", "nonsense")
    metrics.count_replay("nonsense")

    page = metrics.render().decode()
    assert 'gateway_provider_calls_total{outcome="other",provider="other"}' in page
    assert 'gateway_calls_held_back_total{provider="other",reason="other"}' in page
    assert 'gateway_replays_total{kind="other"}' in page
    assert "nonsense" not in page
    assert "nobody" not in page


def test_no_counter_counts_whom_or_what_was_asked() -> None:
    closed = {"provider", "status", "type", "error_type", "reason", "kind", "outcome", "duty", "what"}
    for collector in REGISTRY._names_to_collectors.values():
        if isinstance(collector, Counter):
            assert set(collector._labelnames) <= closed
