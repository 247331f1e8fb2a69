"""The routes of the gateways that came before: one prompt, one text, defaults for the rest."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.contract.broker import BrokerUnderTest
from tests.fakes.provider import ScriptedProvider

pytestmark = pytest.mark.xdist_group("contract")

GENERATE_TEXT, SUMMARIZE = "/generate-text", "/summarize"
GENERATE, HEALTH = "/api/v1/ai/generate", "/api/v1/ai/health"
COMPLETE, STREAM = "/v1/inference/complete", "/v1/inference/stream"
USAGE = {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


def events_of(response: httpx.Response) -> list[str]:
    lines = [line for line in response.text.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def received(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the echoing provider was sent."""
    text = http.post(path, json={**body, "provider": "echo", "model": "any"}).json()["text"]
    found: dict[str, Any] = json.loads(text)["body"]
    return found


def test_a_prompt_alone_is_answered_by_the_default_model(http: httpx.Client) -> None:
    answer = http.post(GENERATE_TEXT, json={"prompt": "Hello"}).json()

    assert answer == {
        "text": "You said: Hello",
        "model": "gpt-3.5-turbo",
        "provider": "openai",
        "usage": USAGE,
    }


def test_a_model_may_be_named_with_or_without_its_provider(http: httpx.Client) -> None:
    named = [
        {"model": "claude-haiku-4-5"},
        {"model": "anthropic/claude-haiku-4-5"},
        {"model": "claude-haiku-4-5", "provider": "anthropic"},
    ]

    answers = [http.post(GENERATE_TEXT, json={"prompt": "Hello", **name}).json() for name in named]

    assert {(answer["provider"], answer["model"]) for answer in answers} == {
        ("anthropic", "claude-haiku-4-5")
    }


def test_a_provider_alone_means_its_first_model(http: httpx.Client) -> None:
    answer = http.post(GENERATE_TEXT, json={"prompt": "Hello", "provider": "anthropic"}).json()

    assert answer["provider"] == "anthropic"
    assert answer["model"].startswith("claude-")


def test_a_provider_no_model_of_which_is_known_needs_one(http: httpx.Client) -> None:
    response = http.post(GENERATE_TEXT, json={"prompt": "Hello", "provider": "echo"})

    assert response.status_code == 422
    assert response.json()["error"]["details"]["param"] == "model"


@pytest.mark.parametrize("path", [GENERATE_TEXT, COMPLETE])
def test_options_beside_the_prompt_reach_the_provider(http: httpx.Client, path: str) -> None:
    body = received(http, path, {"prompt": "Hello", "max_tokens": 9, "temperature": 0.5, "top_k": 3})

    assert body == {
        "model": "any",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
    }


def test_generate_answers_with_cost_and_time(http: httpx.Client) -> None:
    body = {"prompt": "Hello", "model": "gpt-4o-mini", "options": {"max_tokens": 64, "stop": ["END"]}}

    answer = http.post(GENERATE, json=body).json()

    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("latency_ms") >= 0
    assert answer == {
        "text": "You said: Hello",
        "model": "gpt-4o-mini",
        "provider": "openai",
        "finish_reason": "stop",
        "usage": USAGE,
        "cost": {"amount": pytest.approx(3e-6), "currency": "USD"},
    }


def test_generate_takes_messages_too(http: httpx.Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]

    body = received(http, GENERATE, {"messages": messages, "options": {"top_p": 0.5}})

    assert body == {"model": "any", "messages": messages, "top_p": 0.5}


def test_a_completion_is_text_that_did_not_come_from_a_cache(http: httpx.Client) -> None:
    answer = http.post(COMPLETE, json={"prompt": "Hello", "max_tokens": 64, "temperature": 0.7}).json()

    assert answer == {
        "text": "You said: Hello",
        "model": "gpt-3.5-turbo",
        "usage": USAGE,
        "cached": False,
    }


@pytest.mark.parametrize("model", ["gpt-4o-mini", "claude-haiku-4-5"])
def test_a_stream_is_texts_and_ends_with_done(http: httpx.Client, model: str) -> None:
    response = http.post(STREAM, json={"prompt": "Fließend 水", "model": model})

    assert response.headers["content-type"].startswith("text/event-stream")
    *texts, done = events_of(response)
    assert done == "[DONE]"
    assert all(set(json.loads(text)) == {"text"} for text in texts)
    assert "".join(json.loads(text)["text"] for text in texts) == "You said: Fließend 水"


def test_an_error_in_mid_stream_is_the_last_event(http: httpx.Client) -> None:
    script = json.dumps({"text": "one two", "error_in_stream": 1})

    response = http.post(STREAM, json={"prompt": f"!script {script}", "model": "gpt-4o-mini"})

    *texts, last = (json.loads(event) for event in events_of(response))
    assert texts == [{"text": "one"}]
    assert last["error"]["type"] == "provider_error"
    assert last["error"]["trace_id"] == response.headers["x-request-id"]


def test_a_stream_can_be_read_again_by_its_owner_alone(http: httpx.Client, broker: BrokerUnderTest) -> None:
    body = {"prompt": "again", "model": "gpt-4o-mini"}
    first = http.post(STREAM, json=body, headers={"x-stream-ids": "true"})
    ids = [line.removeprefix("id: ") for line in first.text.split("\n") if line.startswith("id: ")]

    resumed = http.post(STREAM, json=body, headers={"last-event-id": ids[0]})
    other = {"authorization": f"Bearer {broker.other_api_key}", "last-event-id": ids[0]}
    stranger = http.post(STREAM, json=body, headers=other)

    assert [line for line in resumed.text.split("\n") if line.startswith("id: ")] == [
        f"id: {each}" for each in ids[1:]
    ]
    assert stranger.status_code == 404
    assert stranger.json()["error"]["type"] == "not_found_error"


async def test_a_summary_is_asked_for_as_a_chat_where_a_chat_model_is_named(
    broker: BrokerUnderTest, provider: ScriptedProvider
) -> None:
    body = {"text": "A long text.", "max_length": 60, "min_length": 5, "model": "gpt-4o-mini"}

    async with httpx.AsyncClient(base_url=broker.url, headers=broker.headers, trust_env=False) as client:
        answer = (await client.post(SUMMARIZE, json=body)).json()

    assert answer == {"summary": "You said: A long text.", "model": "gpt-4o-mini", "provider": "openai"}
    (call,) = await provider.calls()
    assert call.path.endswith("/chat/completions")


@pytest.mark.parametrize("provider_id", ["openai", "anthropic"])
def test_a_summary_is_made_by_the_provider_named(http: httpx.Client, provider_id: str) -> None:
    answer = http.post(SUMMARIZE, json={"text": "A long text.", "provider": provider_id}).json()

    assert answer["provider"] == provider_id
    assert answer["summary"] == "You said: A long text."


def test_health_tells_which_providers_are_served(http: httpx.Client) -> None:
    health = http.get(HEALTH).json()

    assert health["status"] == "healthy"
    found = {each["provider"]: each for each in health["providers"]}
    assert found["openai"] == {"provider": "openai", "name": "OpenAI", "status": "online", "default": True}
    assert found["anthropic"]["default"] is False


def test_health_is_told_to_callers_with_a_key_only(broker: BrokerUnderTest) -> None:
    assert httpx.get(f"{broker.url}{HEALTH}", trust_env=False).status_code == 401


@pytest.mark.parametrize("path", [GENERATE_TEXT, GENERATE, COMPLETE, STREAM])
@pytest.mark.parametrize(("cue", "status"), [({"status": 429}, 429), ({"status": 500}, 502)], ids=str)
def test_a_failing_provider_is_told_in_the_unified_form(
    http: httpx.Client, path: str, cue: dict[str, Any], status: int
) -> None:
    response = http.post(path, json={"prompt": f"!script {json.dumps(cue)}", "model": "gpt-4o-mini"})

    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"type", "message", "details", "trace_id"}
    assert error["details"]["provider"] == "openai"
