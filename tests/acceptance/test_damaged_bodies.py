"""Good requests of every inference route with a value replaced: an answer or a refusal, never a 500."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.stack import Stack, start_apart

pytestmark = [pytest.mark.xdist_group("bad_input"), pytest.mark.timeout(300)]

_BODIES: Final = 400
"""A route and provider."""
_STATUSES: Final = {200, 400, 404, 413, 422, 502, 503}
"""The last two: a body may be good enough for us and too odd for the provider."""

_PICTURE: Final = "data:image/png;base64,iVBORw0KGgo="
_CHAT: Final[dict[str, Any]] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hello"},
                {"type": "image_url", "image_url": {"url": _PICTURE}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "stop": ["END"],
    "max_tokens": 50,
    "temperature": 0.5,
}
_MESSAGES: Final[dict[str, Any]] = {
    "max_tokens": 50,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hello"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                },
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "abc"},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen", "is_error": False}
            ],
        },
    ],
    "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
}
_RESPONSES: Final[dict[str, Any]] = {
    "instructions": "Be brief.",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Hello"},
                {"type": "input_image", "image_url": _PICTURE, "detail": "auto"},
            ],
        },
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "seen"},
    ],
    "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}],
    "tool_choice": "auto",
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
    "reasoning": {"effort": "low"},
    "max_output_tokens": 50,
    "metadata": {"a": "b"},
}
_RERANK: Final[dict[str, Any]] = {"query": "q", "documents": ["a", "b"], "top_n": 1}
_PROMPT: Final[dict[str, Any]] = {"prompt": "Hello", "max_tokens": 5, "temperature": 0.1}

ROUTES: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {"model": "gpt-4o-mini", **_CHAT},
    "/v1/chat/completions#claude": {"model": "claude-haiku-4-5", **_CHAT},
    "/v1/messages": {"model": "claude-haiku-4-5", **_MESSAGES},
    "/v1/messages#gpt": {"model": "gpt-4o-mini", **_MESSAGES},
    "/v1/messages/count_tokens": {
        "model": "gpt-4o-mini",
        **{k: v for k, v in _MESSAGES.items() if k in {"messages", "system", "tools", "tool_choice"}},
    },
    "/v1/responses": {"model": "gpt-4o-mini", **_RESPONSES},
    "/v1/responses#claude": {"model": "claude-haiku-4-5", **_RESPONSES},
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "logprobs": None, "n": 1, **_PROMPT},
    "/v1/completions#claude": {"model": "claude-haiku-4-5", **_PROMPT},
    "/v1/embeddings": {
        "model": "text-embedding-3-small",
        "input": ["a", "b"],
        "encoding_format": "float",
        "dimensions": 4,
    },
    "/v1/rerank": {"model": "openrouter/rerank-1", "return_documents": True, **_RERANK},
    "/v2/rerank": {"model": "openrouter/rerank-1", **_RERANK},
    "/api/v1/chat": {"provider": "xai", "model": "grok-4-1-fast-reasoning", **_CHAT},
    "/api/v1/embeddings": {"provider": "openai", "model": "text-embedding-3-small", "input": "a"},
    "/api/v1/rerank": {"provider": "nvidia_nim", "model": "nvidia/llama-3_2-nv-rerankqa-1b-v2", **_RERANK},
    "/api/v1/estimate": {"provider": "openai", "model": "gpt-4o-mini", "messages": _CHAT["messages"]},
    "/generate-text": _PROMPT,
    "/summarize": {"text": "A long text.", "max_length": 20},
    "/api/v1/ai/generate": {"prompt": "Hello", "options": {"max_tokens": 5}},
    "/v1/inference/complete": _PROMPT,
    "/v1/inference/stream": _PROMPT,
}

_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from(
        ["", "\0", "user", "system", "tool", "text", "function", "auto", _PICTURE, "https://x/"]
    )
)
_values = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "role", "name", "input", "source", "url", "id", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    """A request may take 8 s here: what takes longer hangs."""
    quick = {"HEADRACE_API__REQUEST_TIMEOUT_SECONDS": "8", "HEADRACE_QUEUE__MAX_ATTEMPTS": "1"}
    stack = Stack(database_template=sqlite_template, settings=quick)
    start_apart(stack)
    yield stack
    stack.end_now()


@pytest.fixture(scope="module")
def client(broker: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=broker.url, headers=broker.headers, timeout=10, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("route", ROUTES)
def test_the_undamaged_request_is_answered(client: httpx.Client, route: str) -> None:
    response = client.post(route.partition("#")[0], json=ROUTES[route])

    assert response.status_code == 200, response.text


@pytest.mark.parametrize("route", ROUTES)
@given(data=st.data())
@settings(
    max_examples=_BODIES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_a_request_with_another_value_somewhere_is_answered_or_refused(
    client: httpx.Client, route: str, data: st.DataObject
) -> None:
    document = copy.deepcopy(ROUTES[route])
    for _ in range(data.draw(st.integers(1, 2))):
        _replace(document, data)
    if data.draw(st.booleans()):
        document["stream"] = True

    response = client.post(
        route.partition("#")[0],
        content=json.dumps(document).encode(),
        headers={"content-type": "application/json"},
    )

    assert response.status_code in _STATUSES, response.text
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/json"
        assert "error" in response.json() or "message" in response.json()


def test_after_all_that_the_broker_has_not_failed_once(broker: Stack, client: httpx.Client) -> None:
    assert client.get("/health/ready").status_code == 200
    assert broker.log_events("request failed") == []
    assert broker.log_events("job failed unexpectedly") == []
    assert all("Traceback" not in output for output in broker.logs().values())


def _replace(document: dict[str, Any], data: st.DataObject) -> None:
    """Another value, or none at all, at a random place."""
    holder: Any = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 3)) == 0:
            break
        holder = inner
    if isinstance(holder, dict) and data.draw(st.integers(0, 5)) == 0:
        del holder[key]
    else:
        holder[key] = data.draw(_values)
