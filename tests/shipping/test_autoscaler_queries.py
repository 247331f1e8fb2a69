"""What the HPA and KEDA ask, asked of a real Prometheus that scrapes a real broker.

prometheus-adapter writes its query out of a template; the test does as it does: the label selector of the
HPA's metric and the HPA's namespace become label matchers, in that order.
Source: prometheus-adapter, pkg/naming/metrics_query.go, read 2026-11.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import yaml

from tests.fakes.eventually import eventually
from tests.fakes.prometheus_server import PrometheusServer
from tests.fakes.stack import Stack
from tests.shipping.manifests import K8S, Object, name_of, of_kind, rendered
from tests.shipping.watched import RULES, chat

pytestmark = pytest.mark.xdist_group("operations")

WAITING: Final = 3
VALUES: Final = K8S / "overlays" / "production" / "prometheus-adapter.values.yaml"
RECORDED: Final = "provider:gateway_jobs:sum"


@pytest.fixture
async def prometheus() -> AsyncIterator[PrometheusServer]:
    """Of two brokers, `headrace` and another one, with so many jobs for OpenAI waiting in each."""
    async with Stack(workers=0, schedulers=0) as stack, stack.client() as client:
        port = stack.apis[0].port
        rules = {file.name: file.read_text(encoding="utf-8") for file in RULES}
        # Scraped twice, one broker is two.
        brokers = {"headrace": [port], "other": [port]}
        server = PrometheusServer(brokers, rules, namespaces={name: name for name in brokers})
        server.start()
        asked = [
            asyncio.create_task(client.post("/v1/chat/completions", json=chat(f"{number}")))
            for number in range(WAITING)
        ]
        try:

            async def all_counted() -> bool:
                found = await server.query(f'{RECORDED}{{provider="openai"}}')
                return [one["value"][1] for one in found] == [str(WAITING)] * len(brokers)

            await eventually(all_counted, "the jobs of both brokers", within=20, every=0.1)
            yield server
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            server.stop()


def rule() -> Any:
    (found,) = yaml.safe_load(VALUES.read_text(encoding="utf-8"))["rules"]["external"]
    return found


def matchers(selector: Object, namespace: str) -> str:
    terms = [f'{name}="{value}"' for name, value in sorted(selector.get("matchLabels", {}).items())]
    for term in selector.get("matchExpressions", []):
        assert term["operator"] == "In"
        terms.append(f'{term["key"]}=~"{"|".join(sorted(term["values"]))}"')
    (label,) = [
        label for label, what in rule()["resources"]["overrides"].items() if what["resource"] == "namespace"
    ]
    return ",".join([*terms, f'{label}="{namespace}"'])


def as_the_adapter_asks(scaler: Object) -> str:
    (metric,) = scaler["spec"]["metrics"]
    selector = metric["external"]["metric"]["selector"]
    query: str = rule()["metricsQuery"]
    for field, value in {
        "Series": RECORDED,
        "LabelMatchers": matchers(selector, scaler["metadata"]["namespace"]),
        # Of an external metric there is none.
        "GroupBy": "",
    }.items():
        query = query.replace(f"<<.{field}>>", value)
    assert "<<" not in query
    return query


def pools(folder: str, kind: str) -> dict[str, Object]:
    found = {name_of(one): one for one in of_kind(rendered(folder), kind)}
    return {name.removeprefix("headrace-worker-"): one for name, one in found.items() if "worker" in name}


def expected() -> dict[str, float]:
    return {name: WAITING if name == "openai" else 0 for name in ("anthropic", "openai", "rest")}


async def test_the_adapter_finds_the_series_and_tells_each_pool_the_jobs_of_its_own_broker(
    prometheus: PrometheusServer,
) -> None:
    series = await prometheus.series(rule()["seriesQuery"])
    assert {one["__name__"] for one in series} == {RECORDED}
    assert {one["namespace"] for one in series} == {"headrace", "other"}

    told = {}
    for name, scaler in pools("overlays/production", "HorizontalPodAutoscaler").items():
        found = await prometheus.query(as_the_adapter_asks(scaler))
        assert found, name
        # The HPA takes the sum of what it is told.
        told[name] = sum(float(one["value"][1]) for one in found)

    assert told == expected()


async def test_keda_is_told_one_figure_for_each_pool_of_its_own_broker(prometheus: PrometheusServer) -> None:
    told = {}
    for name, scaled in pools("overlays/keda", "ScaledObject").items():
        (trigger,) = scaled["spec"]["triggers"]
        # More than one would be an error to KEDA.
        (found,) = await prometheus.query(trigger["metadata"]["query"])
        told[name] = float(found["value"][1])

    assert told == expected()
