"""Thousands of random bodies at both chat routes: whatever comes, an answer in good order, and soon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.acceptance.bad_input import Route
from tests.fakes.stack import Stack, start_apart

pytestmark = [pytest.mark.xdist_group("bad_input"), pytest.mark.timeout(300)]

_BODIES: Final = 1_000
"""A test; each goes to both routes."""
_STATUSES: Final = {200, 400, 404, 413, 422}
_UNLUCKY_PROVIDER: Final = {502, 503}
"""A body may be good enough for us and too odd for the provider."""

_thorough = settings(
    max_examples=_BODIES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)

_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(st.characters(codec=None), max_size=40)
)
_json = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=30,
)
_messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "x"])
            | _leaves,
            "content": st.text(max_size=20)
            | st.lists(
                st.fixed_dictionaries(
                    {"type": st.sampled_from(["text", "image_url", "input_audio", "file", "refusal", "odd"])},
                    optional={"text": _leaves, "image_url": _json, "input_audio": _json, "file": _json},
                ),
                max_size=3,
            )
            | _json,
            "tool_calls": _json,
            "tool_call_id": _leaves,
            "name": _leaves,
        },
    ),
    max_size=4,
)
# Text that orjson takes: what is inside these bodies should reach the provider.
_tame = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef_-. 水", max_size=9), inner),
    max_leaves=12,
)
_good = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["gpt-4o-mini", "anthropic/claude-haiku-4-5"]),
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["system", "user", "assistant"]),
                    "content": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
                }
            ),
            min_size=1,
            max_size=4,
        ),
    },
    optional={
        "stream": st.booleans(),
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 4_000),
        "seed": st.integers(-(2**40), 2**40),
        "frobnicate": _tame,
        "vendor-options": _tame,
    },
)
_nearly_good = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["gpt-4o-mini", "anthropic/claude-haiku-4-5", "claude-haiku-4-5"]),
        "messages": st.just([{"role": "user", "content": "Hello"}]) | _messages,
    },
    optional={
        "provider": st.sampled_from(["openai", "anthropic", None]) | _leaves,
        "stream": st.booleans() | st.none(),
        **{
            name: st.one_of(st.floats(-3, 3), st.integers(-2, 200), _json)
            for name in ("temperature", "top_p", "n", "max_tokens", "max_completion_tokens", "seed", "stop")
        },
        **dict.fromkeys(
            (
                "tools",
                "tool_choice",
                "response_format",
                "metadata",
                "logit_bias",
                "stream_options",
                "user",
                "reasoning_effort",
                "frobnicate",
            ),
            _json,
        ),
    },
)
_tools = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["gpt-4o-mini", "anthropic/claude-haiku-4-5"]),
        "messages": st.just([{"role": "user", "content": "Hello"}]),
        "tools": st.lists(
            st.fixed_dictionaries(
                {"type": st.just("function")},
                optional={
                    "function": st.fixed_dictionaries(
                        {"name": st.text(max_size=8)},
                        optional={"parameters": st.dictionaries(st.text(max_size=5), _json, max_size=3)},
                    )
                },
            ),
            max_size=2,
        ),
    },
    optional={"tool_choice": _json, "stream": st.booleans()},
)


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    """A request may take 8 s here: what takes longer hangs."""
    quick = {"HEADRACE_API__REQUEST_TIMEOUT_SECONDS": "8"}
    stack = Stack(database_template=sqlite_template, settings=quick)
    start_apart(stack)
    yield stack
    stack.end_now()


@pytest.fixture(scope="module")
def client(broker: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=broker.url, headers=broker.headers, timeout=10, trust_env=False) as client:
        yield client


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@_thorough
def test_random_bytes_are_refused(client: httpx.Client, body: bytes) -> None:
    for route in Route:
        assert _post(client, route, body) in {400, 422}


@given(document=_json | _nearly_good | _tools | _good)
@_thorough
def test_random_json_is_answered_or_refused(client: httpx.Client, document: Any) -> None:
    # Lone surrogates and numbers that are none are part of what is sent.
    body = json.dumps(document).encode()

    for route in Route:
        assert _post(client, route, body) in _STATUSES | _UNLUCKY_PROVIDER


@given(document=_nearly_good | _good, data=st.data())
@_thorough
def test_a_good_body_with_random_damage_is_answered_or_refused(
    client: httpx.Client, document: dict[str, Any], data: st.DataObject
) -> None:
    body = bytearray(json.dumps(document, ensure_ascii=data.draw(st.booleans())).encode(errors="replace"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    for route in Route:
        assert _post(client, route, bytes(body)) in _STATUSES | _UNLUCKY_PROVIDER


def test_after_all_that_the_broker_has_not_failed_once(broker: Stack, client: httpx.Client) -> None:
    for route in Route:
        assert _post(client, route, json.dumps(route.chat()).encode()) == 200

    assert broker.log_events("request failed") == []
    assert broker.log_events("job failed unexpectedly") == []
    assert all("Traceback" not in output for output in broker.logs().values())


def _post(client: httpx.Client, route: Route, body: bytes) -> int:
    """The status, once the answer was found to be in the route's form."""
    response = client.post(route.value.decode(), content=body, headers={"content-type": "application/json"})
    if response.headers["content-type"].startswith("text/event-stream"):
        *_, last = response.text.rstrip("\n").split("\n")
        assert last == "data: [DONE]" or "error" in json.loads(last.removeprefix("data: "))
        return response.status_code
    document = response.json()
    if response.status_code != 200:
        error = document["error"]
        form = {"message", "type", "param", "code"}
        assert set(error) == (form if route is Route.OPENAI else {"type", "message", "details", "trace_id"})
    return response.status_code
