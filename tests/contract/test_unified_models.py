"""Providers, models, estimates and health as callers of the unified routes know them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.contract.broker import BrokerUnderTest
from tests.fakes.eventually import eventually
from tests.fakes.provider import ScriptedProvider

pytestmark = pytest.mark.xdist_group("contract")

ROUTES = ["/api/v1/providers", "/api/v1/providers/openai", "/api/v1/models", "/api/v1/health"]
HELLO = [{"role": "user", "content": "Hello there, world"}]


def estimate(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/api/v1/estimate", json=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ask(http: httpx.Client, path: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/api/v1/{path}").json()
    return found


def statuses(http: httpx.Client, *providers: str) -> set[str]:
    return {ask(http, "health")["providers"][name] for name in providers}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_asks_for_a_key(broker: BrokerUnderTest, route: str) -> None:
    answer = httpx.get(f"{broker.url}{route}", trust_env=False)

    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


def test_providers_are_listed_with_what_they_can(http: httpx.Client) -> None:
    listed = {provider["id"]: provider for provider in http.get("/api/v1/providers").json()["providers"]}

    openai = listed["openai"]
    assert openai.keys() >= {"id", "name", "status", "models", "capabilities", "breaker"}
    assert openai["name"] == "OpenAI"
    assert "gpt-4o-mini" in openai["models"]
    assert {"chat", "vision", "function-calling"} <= set(openai["capabilities"])
    assert "claude-haiku-4-5" in listed["anthropic"]["models"]
    assert set(listed) >= {"openai", "anthropic", "echo"}


def test_the_list_says_where_a_name_without_a_provider_leads(http: httpx.Client) -> None:
    assert http.get("/api/v1/providers").json()["routing"] == {
        "default_provider": "openai",
        "unknown_models": "refused",
        "routes": [],
        "fallbacks": {},
    }


async def test_a_provider_is_described_with_its_health_as_last_seen(http: httpx.Client) -> None:
    await eventually(lambda: ask(http, "providers/openai")["status"] == "online", "a look", within=40)
    details = ask(http, "providers/openai")

    assert details["health"]["status"] == "online"
    assert details["health"]["latency_ms"] >= 0
    assert details["health"]["checked_at"]
    assert details["health"]["error"] is None
    assert details["quota"]["status"] in {"unknown", "available", "low", "exhausted"}
    assert isinstance(details["rate_limits"], list)
    assert details["docs"].startswith("https://")


def test_a_provider_that_is_not_there_is_not_found(http: httpx.Client) -> None:
    answer = http.get("/api/v1/providers/acme")

    assert answer.status_code == 404
    assert "openai" in answer.json()["error"]["details"]["available"]


async def test_health_names_every_provider(http: httpx.Client) -> None:
    await eventually(lambda: "unknown" not in statuses(http, "openai", "anthropic"), "a look", within=40)
    health = ask(http, "health")

    assert set(health) == {"status", "providers", "database", "redis"}
    impaired = {"degraded", "offline"} & set(health["providers"].values())
    assert (health["database"], health["redis"]) == ("connected", "connected")
    assert health["status"] == ("degraded" if impaired else "ok")
    assert health["providers"]["anthropic"] == "online"


def test_models_are_listed_with_limits_prices_and_where_they_were_read(http: httpx.Client) -> None:
    answer = http.get("/api/v1/models").json()

    models = {model["id"]: model for model in answer["models"]}
    assert len(models) == len(answer["models"])
    mini = models["gpt-4o-mini"]
    assert (mini["provider"], mini["context_tokens"], mini["max_output_tokens"]) == (
        "openai",
        128_000,
        16_384,
    )
    assert mini["usd_per_million"] == {
        "prompt": 0.15,
        "cached_prompt": 0.075,
        "completion": 0.6,
        "cache_write": None,
        "cache_write_1h": None,
    }
    sonnet = models["claude-sonnet-4-5"]["usd_per_million"]
    assert (sonnet["cache_write"], sonnet["cache_write_1h"]) == (3.75, 6.0)
    assert "vision" in mini["capabilities"]
    assert mini["source"].startswith("https://")
    assert mini["read"].startswith("2026-11-")
    assert "gpt-3.5-turbo" not in models
    assert set(answer["aliases"]) <= {model["id"] for model in http.get("/v1/models").json()["data"]}


async def test_an_estimate_costs_nothing_and_calls_nobody(
    http: httpx.Client, provider: ScriptedProvider
) -> None:
    found = estimate(http, provider="openai", model="gpt-4o-mini", messages=HELLO, max_tokens=1_000)

    assert found == {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "kind": "chat",
        "prompt_tokens": 11,
        "max_completion_tokens": 1_000,
        "known": True,
        "low_micro_usd": 2,
        "high_micro_usd": 602,
        "low_usd": 0.000002,
        "high_usd": 0.000602,
        "note": None,
    }
    assert await provider.calls() == []


@pytest.mark.parametrize(
    ("fields", "kind", "tokens"),
    [
        ({"model": "gpt-4o-mini", "input": "Hello there, world"}, "responses", 11),
        ({"model": "text-embedding-3-small", "input": "Hello there, world"}, "embeddings", 4),
        ({"model": "gpt-3.5-turbo-instruct", "prompt": "Hello there, world"}, "completion", 4),
        ({"model": "gpt-4o-mini", "text": "Hello there, world"}, "summarization", 4),
        ({"model": "claude-haiku-4-5", "messages": HELLO, "kind": "messages"}, "messages", 12),
        ({"model": "claude-haiku-4-5", "messages": HELLO, "kind": "count_tokens"}, "count_tokens", 12),
    ],
)
def test_the_body_of_any_route_can_be_estimated(
    http: httpx.Client, fields: dict[str, Any], kind: str, tokens: int
) -> None:
    found = estimate(http, **fields)

    assert (found["kind"], found["prompt_tokens"], found["known"]) == (kind, tokens, True)


def test_a_model_whose_price_nobody_knows_is_estimated_without_one(http: httpx.Client) -> None:
    found = estimate(http, provider="echo", model="anything", messages=HELLO)

    assert (found["known"], found["low_micro_usd"], found["high_micro_usd"]) == (False, 0, 0)
    assert found["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, None),
        (b"[]", 422, None),
        (b"{}", 422, "model"),
        (b'{"model":7,"messages":[]}', 422, "model"),
        (b'{"model":"gpt-4o"}', 422, "messages"),
        (b'{"model":"gpt-4o","messages":"hi"}', 422, "messages"),
        (b'{"model":"gpt-4o","messages":[7]}', 422, "messages[0]"),
        (b'{"model":"gpt-4o","messages":[],"kind":"poem"}', 422, "kind"),
        (b'{"model":"gpt-4o","messages":[],"kind":null}', 422, "kind"),
        (b'{"model":"gpt-4o","messages":[],"max_tokens":-1}', 422, "max_tokens"),
        (b'{"model":"gpt-4o","messages":[],"max_tokens":1e400}', 422, "max_tokens"),
        (b'{"model":"gpt-4o","messages":[],"n":1000}', 422, "n"),
        (b'{"model":"gpt-4o","messages":[],"n":true}', 422, "n"),
        (b'{"model":"gpt-4o","messages":[],"provider":7}', 422, "provider"),
        (b'{"model":"gpt-4o","messages":[],"provider":"acme"}', 404, "provider"),
        (b'{"model":"nobody-s-model","messages":[]}', 404, "model"),
    ],
)
def test_what_cannot_be_estimated_is_refused_with_the_field(
    http: httpx.Client, body: bytes, status: int, param: str | None
) -> None:
    answer = http.post("/api/v1/estimate", content=body, headers={"content-type": "application/json"})

    error = answer.json()["error"]
    assert answer.status_code == status, answer.text
    assert error["type"] != "internal_error"
    if param is not None:
        assert error["details"]["param"] == param


def test_content_of_no_known_form_is_estimated_all_the_same(http: httpx.Client) -> None:
    odd = [{"role": 7, "content": [{"type": [], "text": {}}, {"type": "text", "text": "\u2028"}]}]

    assert estimate(http, model="gpt-4o", messages=odd, tools=[{"x": 2**60}])["prompt_tokens"] > 0
