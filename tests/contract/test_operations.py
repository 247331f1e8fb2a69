"""What operators and their tools read: health, metrics, the documentation of the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.broker import BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
_METHODS: Final = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def anonymous(broker: BrokerUnderTest) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=broker.url, trust_env=False, timeout=10) as client:
        yield client


def test_health_is_told_without_a_key(anonymous: httpx.Client) -> None:
    live, ready, health = (anonymous.get(path) for path in ("/health/live", "/health/ready", "/health"))

    assert live.json() == {"status": "ok"}
    assert ready.json() == {"status": "ok", "redis": "connected", "database": "connected"}
    assert health.json()["status"] == "ok"
    assert health.json()["redis"] == health.json()["database"] == "connected"
    assert set(health.json()["inference"]["providers"]) >= {"openai", "anthropic"}
    assert [response.status_code for response in (live, ready, health)] == [200] * 3


def test_metrics_count_what_went_through(http: httpx.Client, anonymous: httpx.Client) -> None:
    before = _scrape(anonymous)
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 40}]}
    limited = {**body, "messages": [{"role": "user", "content": '!script {"status": 429}'}]}

    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert http.post("/v1/chat/completions", json={**body, "stream": True}).status_code == 200
    assert http.post("/api/v1/chat", json={**body, "provider": "openai"}).status_code == 200
    assert http.post("/v1/chat/completions", json=limited).status_code == 429
    after = _scrape(anonymous)

    def grew(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before.get(key, 0.0)

    assert grew("gateway_requests_total", provider="openai", status="success") == 3
    assert grew("gateway_requests_total", provider="openai", status="rate_limit") == 1
    assert grew("gateway_errors_total", provider="openai", error_type="rate_limit") == 1
    assert grew("gateway_tokens_total", provider="openai", type="prompt") == 30
    assert grew("gateway_tokens_total", provider="openai", type="completion") == 39
    assert grew("gateway_request_duration_seconds_count", provider="openai") == 4
    quantile = frozenset({"provider": "openai", "quantile": "0.95"}.items())
    assert 0 < after["gateway_request_duration_seconds", quantile] < 60


def test_metrics_never_name_a_model_a_key_or_a_path(
    http: httpx.Client, anonymous: httpx.Client, broker: BrokerUnderTest
) -> None:
    http.post("/v1/chat/completions", json={"model": "made-up-model", "messages": []})
    http.get("/v1/made-up-path")

    page = anonymous.get("/metrics").text

    assert "made-up" not in page
    assert broker.api_key not in page
    names = {line.partition("{")[0] for line in page.splitlines() if line.startswith("gateway_")}
    assert names >= {"gateway_queue_depth", "gateway_queue_oldest_age_seconds", "gateway_jobs_in_flight"}


def test_the_documentation_page_shows_the_document(anonymous: httpx.Client) -> None:
    page = anonymous.get("/docs")

    assert page.status_code == 200
    assert "/openapi.json" in page.text


def test_the_openapi_document_is_valid_and_tells_every_route(anonymous: httpx.Client) -> None:
    document = anonymous.get("/openapi.json").json()

    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model}",
        "/api/v1/chat",
        "/api/v1/estimate",
        "/api/v1/health",
        "/api/v1/models",
        "/api/v1/providers",
        "/api/v1/providers/{provider}",
        "/api/v1/jobs/{job_id}/events",
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    operations = [
        (path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    ]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(set(ids)) == len(ids)
    for path, operation in operations:
        assert operation["responses"], path
        declared = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert declared == {part.strip("{}") for part in path.split("/") if part.startswith("{")}, path
    for reference in _references(document):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_the_documents_own_examples_are_answered(http: httpx.Client, anonymous: httpx.Client) -> None:
    document = anonymous.get("/openapi.json").json()

    for path in ("/v1/chat/completions", "/api/v1/chat"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        response = http.post(path, json=content["application/json"]["example"])
        assert response.status_code == 200, path


def _scrape(anonymous: httpx.Client) -> Samples:
    response = anonymous.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
