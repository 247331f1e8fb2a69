"""`POST /api/v1/chat` as its callers know it: answer, stream and errors in the unified form."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import httpx
import pytest

from tests.contract.broker import BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

MODELS: Final = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
PROVIDERS: Final = tuple(MODELS)
TRACE_ID: Final = re.compile(r"req_[0-9a-f]{24}")
ERROR_TYPES: Final = {
    "authentication_error",
    "authorization_error",
    "validation_error",
    "rate_limit_error",
    "provider_error",
    "internal_error",
}


def chat(text: str, provider: str = "openai", **fields: Any) -> dict[str, Any]:
    return {
        "provider": provider,
        "model": MODELS.get(provider, "any"),
        "messages": [{"role": "user", "content": text}],
        **fields,
    }


def script(provider: str = "openai", **cue: Any) -> dict[str, Any]:
    return chat(f"!script {json.dumps(cue)}", provider)


def events_of(response: httpx.Response) -> list[str]:
    """What stands behind each `data: `; nothing else may be in the stream but blank lines and comments."""
    lines = [line for line in response.text.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def error_of(response: httpx.Response) -> dict[str, Any]:
    (error,) = response.json().values()
    assert list(response.json()) == ["error"]
    assert set(error) == {"type", "message", "details", "trace_id"}
    assert TRACE_ID.fullmatch(error["trace_id"])
    assert error["trace_id"] == response.headers["x-request-id"]
    found: dict[str, Any] = error
    return found


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_has_the_unified_form(http: httpx.Client, provider: str) -> None:
    response = http.post("/api/v1/chat", json=chat("Hello", provider, temperature=0.7, max_tokens=64))

    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"id", "provider", "model", "choices", "usage"}
    assert answer["id"]
    assert answer["provider"] == provider
    assert answer["model"] == MODELS[provider]
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "You said: Hello"
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_is_deltas_and_ends_with_done(http: httpx.Client, provider: str) -> None:
    response = http.post("/api/v1/chat", json=chat("Fließend 水 👩‍🔧", provider, stream=True))

    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done = events_of(response)
    frames = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert all(set(frame) <= {"delta", "finish_reason", "usage"} for frame in frames)
    assert "".join(frame["delta"].get("content", "") for frame in frames) == "You said: Fließend 水 👩‍🔧"
    assert [frame["finish_reason"] for frame in frames if "finish_reason" in frame] == ["stop"]
    assert frames[-1]["usage"]["total_tokens"] > 0


def test_several_answers_are_told_plain_and_refused_as_a_stream(http: httpx.Client) -> None:
    plain = http.post("/api/v1/chat", json=chat("Hello", n=2))
    streamed = http.post("/api/v1/chat", json=chat("Hello", n=2, stream=True))

    assert plain.status_code == 200
    assert streamed.status_code == 422
    assert error_of(streamed)["details"]["param"] == "n"
    for one in (1, None):
        assert events_of(http.post("/api/v1/chat", json=chat("Hello", n=one, stream=True)))[-1] == "[DONE]"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tool_calls_come_in_the_message_and_in_deltas(http: httpx.Client, provider: str) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}

    plain = http.post("/api/v1/chat", json=chat("Hello", provider, tools=[tool])).json()
    streamed = http.post("/api/v1/chat", json=chat("Hello", provider, tools=[tool], stream=True))

    (choice,) = plain["choices"]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["look_up"]
    deltas = [json.loads(event)["delta"] for event in events_of(streamed)[:-1]]
    named = [call["function"].get("name") for delta in deltas for call in delta.get("tool_calls", ())]
    assert named[0] == "look_up"


def test_parameters_of_one_provider_reach_it_and_ours_do_not(http: httpx.Client) -> None:
    body = chat("Hello", "echo", transforms=["middle-out"], top_k=3)

    answer = http.post("/api/v1/chat", json=body).json()

    received = json.loads(answer["choices"][0]["message"]["content"])["body"]
    assert received["transforms"] == ["middle-out"]
    assert received["top_k"] == 3
    assert received["model"] == "any"
    assert "provider" not in received


@pytest.mark.parametrize("provider", PROVIDERS)
def test_without_a_provider_a_known_model_is_not_sent_to_the_wrong_one(
    http: httpx.Client, provider: str
) -> None:
    body = chat("Hello", provider)
    del body["provider"]

    assert http.post("/api/v1/chat", json=body).json()["provider"] == provider


def test_without_a_provider_an_unknown_model_is_not_found_and_close_ones_get_listed(
    http: httpx.Client,
) -> None:
    body = {"model": "claude-haiku-4.5", "messages": [{"role": "user", "content": "Hello"}]}

    response = http.post("/api/v1/chat", json=body)

    assert response.status_code == 404
    error = error_of(response)
    assert error["details"]["code"] == "model_not_found"
    assert "claude-haiku-4-5" in error["details"]["available_models"]
    assert len(error["details"]["available_models"]) <= 5


def test_without_a_key_it_is_an_authentication_error(broker: BrokerUnderTest) -> None:
    response = httpx.post(f"{broker.url}/api/v1/chat", json=chat("Hello"), trust_env=False)

    assert response.status_code == 401
    assert error_of(response)["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"provider": "No Such/Form"}, "provider"),
        ({"model": ""}, "model"),
    ],
    ids=str,
)
def test_an_invalid_field_is_named(http: httpx.Client, change: dict[str, Any], path: str) -> None:
    response = http.post("/api/v1/chat", json=chat("Hello") | change)

    assert response.status_code == 422
    error = error_of(response)
    assert error["type"] == "validation_error"
    assert error["details"]["param"] == path
    assert [problem["path"] for problem in error["details"]["errors"]] == [path]


def test_an_unknown_provider_is_not_found_and_those_there_are_get_listed(http: httpx.Client) -> None:
    response = http.post("/api/v1/chat", json=chat("Hello", "nobody"))

    assert response.status_code == 404
    error = error_of(response)
    assert error["type"] == "not_found_error"
    assert set(error["details"]["available_providers"]) >= {"openai", "anthropic", "echo"}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("cue", "status", "kind"),
    [
        ({"status": 400}, 400, "provider_error"),
        ({"status": 401}, 502, "provider_error"),
        ({"status": 404}, 404, "provider_error"),
        ({"status": 429}, 429, "rate_limit_error"),
        ({"status": 500}, 502, "provider_error"),
        ({"status": 529}, 503, "provider_error"),
    ],
    ids=str,
)
def test_a_failing_provider_is_named(
    http: httpx.Client, provider: str, cue: dict[str, Any], status: int, kind: str
) -> None:
    plain = http.post("/api/v1/chat", json=script(provider, **cue))
    streamed = http.post("/api/v1/chat", json=script(provider, **cue) | {"stream": True})

    for response in (plain, streamed):
        error = error_of(response)
        assert error["type"] == kind
        assert error["type"] in ERROR_TYPES
        assert error["details"]["provider"] == provider
        assert response.status_code == status


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_that_is_none_is_an_error(http: httpx.Client, provider: str) -> None:
    response = http.post("/api/v1/chat", json=script(provider, garbage="wrong_schema"))

    assert response.status_code == 502
    assert error_of(response)["details"]["code"] == "invalid_response"


def test_an_error_in_mid_stream_is_the_last_event(http: httpx.Client) -> None:
    response = http.post("/api/v1/chat", json=script(text="one two", error_in_stream=1) | {"stream": True})

    assert response.status_code == 200
    first, last = (json.loads(event) for event in events_of(response))
    assert first == {"delta": {"content": "one"}}
    assert last["error"]["type"] == "provider_error"
    assert last["error"]["trace_id"] == response.headers["x-request-id"]


def test_a_trace_id_of_the_callers_own_comes_back(http: httpx.Client) -> None:
    response = http.post("/api/v1/chat", json={}, headers={"x-request-id": "trace_of-mine-44"})

    assert response.json()["error"]["trace_id"] == "trace_of-mine-44"


def test_a_job_can_be_read_again_by_its_owner_alone(http: httpx.Client, broker: BrokerUnderTest) -> None:
    first = http.post("/api/v1/chat", json=chat("again", stream=True))
    events = f"/api/v1/jobs/{first.headers['x-headrace-job-id']}/events"

    again = http.get(events)
    stranger = http.get(events, headers={"authorization": f"Bearer {broker.other_api_key}"})

    told = [line for line in again.text.split("\n") if line.startswith("data: ")]
    assert [line.removeprefix("data: ") for line in told] == events_of(first)
    assert stranger.status_code == 404
    assert error_of(stranger)["type"] == "not_found_error"
