"""Failures, through the official Anthropic client: its own exception classes, with what they are about."""

from __future__ import annotations

import os
from typing import Any

import anthropic
import httpx
import pytest

from tests.contract.anthropic_sdk.conversation import ANTHROPIC, BOTH, OPENAI, say, script
from tests.contract.broker import BrokerUnderTest
from tests.fakes.provider import ScriptedProvider
from tests.fakes.server_process import free_port

pytestmark = pytest.mark.xdist_group("contract")

_BROKEN = anthropic.InternalServerError


def ask(client: anthropic.Anthropic, **more: Any) -> Any:
    return client.messages.create(**{"model": OPENAI, "max_tokens": 50, "messages": say("Hello"), **more})


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"messages": []}, "messages: "),
        ({"extra_body": {"temperature": 1.5}}, "temperature: "),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"messages": [{"role": "oracle", "content": "Hello"}]}, "messages[0].role: "),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text: "),
        ({"tools": [{"name": "x"}]}, "tools[0]: needs `input_schema`"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice: needs `name`"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]: "),
        ({"extra_body": {"top_k": 3}}, "top_k: "),
        ({"extra_headers": {"Idempotency-Key": ""}}, "Idempotency-Key"),
        ({"model": ANTHROPIC, "extra_headers": {"anthropic-version": "no version"}}, "anthropic_version: "),
        ({"model": ANTHROPIC, "extra_headers": {"anthropic-beta": "a;b"}}, "anthropic_beta: "),
    ],
    ids=str,
)
def test_a_wrong_request_is_a_bad_request_that_names_the_field(
    client: anthropic.Anthropic, request_: dict[str, Any], says: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as raised:
        ask(client, **request_)

    body: Any = raised.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith(says)
    assert body["request_id"] == raised.value.request_id


def test_a_count_of_a_wrong_request_is_a_bad_request(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.messages.count_tokens(model=OPENAI, messages=[])


def test_a_model_nobody_serves_is_not_found(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        ask(client, model="claude-9-imaginary")

    body: Any = raised.value.body
    assert body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("path", ["/v1/messages/unheard-of", "/v1/messages/count_tokens/x"])
def test_other_paths_are_not_found_in_anthropics_form(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={})

    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("api_key", ["gw_live_of_nobody", "x"])
def test_a_wrong_key_is_an_authentication_error(broker: BrokerUnderTest, api_key: str) -> None:
    with (
        anthropic.Anthropic(base_url=broker.url, api_key=api_key, max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as raised,
    ):
        ask(stranger)

    body: Any = raised.value.body
    assert body["error"]["type"] == "authentication_error"
    assert api_key not in str(body["error"])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize(
    ("status", "raises", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.APIStatusError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (401, _BROKEN, "api_error"),
        (402, _BROKEN, "api_error"),
        (500, _BROKEN, "api_error"),
        (529, _BROKEN, "overloaded_error"),
    ],
)
def test_a_failing_provider_raises_what_anthropic_would_raise(
    client: anthropic.Anthropic,
    model: str,
    stream: bool,
    status: int,
    raises: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    """A stream whose first event is an error has that error's status, as long as we hold it."""
    with pytest.raises(raises) as raised:
        ask(client, model=model, messages=script(status=status), stream=stream)

    body: Any = raised.value.body
    assert body["error"]["type"] == kind


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("garbage", ["html", "truncated_json", "wrong_schema"])
def test_an_answer_that_is_none_is_an_error_and_never_an_empty_message(
    client: anthropic.Anthropic, model: str, garbage: str
) -> None:
    with pytest.raises(_BROKEN) as raised:
        ask(client, model=model, messages=script(garbage=garbage))

    assert raised.value.status_code == 502


@pytest.mark.parametrize("model", BOTH)
def test_an_error_in_mid_stream_is_raised_after_what_came_before_it(
    client: anthropic.Anthropic, model: str
) -> None:
    heard = ""
    raised: anthropic.APIStatusError | None = None

    with client.messages.stream(
        model=model, max_tokens=50, messages=script(text="one two three", error_in_stream=2)
    ) as stream:
        try:
            for text in stream.text_stream:
                heard += text
        except anthropic.APIStatusError as error:
            raised = error

    assert heard == "one two"
    assert raised is not None
    body: Any = raised.body
    assert body["error"]["type"] in {"overloaded_error", "api_error"}


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_stream_cut_short_never_looks_whole(client: anthropic.Anthropic, model: str, how: str) -> None:
    cue = {"text": "one two three", "between_chunks_ms": 50, "cut": how, "cut_after_chunks": 2}

    with (
        client.messages.stream(model=model, max_tokens=50, messages=script(**cue)) as stream,
        pytest.raises(anthropic.APIStatusError),
    ):
        stream.until_done()


def test_a_broker_that_is_not_there_is_a_connection_error() -> None:
    with (
        anthropic.Anthropic(base_url=f"http://127.0.0.1:{free_port()}", api_key="x", max_retries=0) as lost,
        pytest.raises(anthropic.APIConnectionError),
    ):
        ask(lost)


@pytest.mark.parametrize(
    ("cue", "raises", "calls"),
    [
        ({"status": 500}, anthropic.InternalServerError, 3),
        ({"status": 400}, anthropic.BadRequestError, 1),
    ],
    ids=str,
)
async def test_what_the_broker_tried_enough_the_client_does_not_try_again(
    async_client: anthropic.AsyncAnthropic,
    provider: ScriptedProvider,
    cue: dict[str, Any],
    raises: type[anthropic.APIStatusError],
    calls: int,
) -> None:
    patient = async_client.with_options(max_retries=2)

    with pytest.raises(raises) as raised:
        await patient.messages.create(model=ANTHROPIC, max_tokens=50, messages=script(**cue))

    assert raised.value.response.headers.get("x-should-retry", "false") == "false"
    assert len(await provider.calls()) == calls


async def test_a_rate_limit_that_stays_is_waited_out_by_the_broker_and_not_by_the_client(
    async_client: anthropic.AsyncAnthropic, provider: ScriptedProvider
) -> None:
    patient = async_client.with_options(max_retries=2)

    with pytest.raises(anthropic.RateLimitError) as raised:
        await patient.messages.create(model=ANTHROPIC, max_tokens=50, messages=script(status=429))

    assert raised.value.response.headers.get("x-should-retry", "false") == "false"
    calls = await provider.calls()
    assert len(calls) > 1
    assert len({call.job for call in calls}) == 1


def test_an_overloaded_provider_says_when_to_come_back(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.RateLimitError) as raised:
        ask(client, model=ANTHROPIC, messages=script(status=429, headers={"retry-after": "1"}))

    assert raised.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("model", BOTH)
async def test_a_stream_abandoned_by_its_reader_ends_at_the_provider(
    async_client: anthropic.AsyncAnthropic, provider: ScriptedProvider, model: str
) -> None:
    async with async_client.messages.stream(
        model=model, max_tokens=50, messages=script(chunks=400, between_chunks_ms=50)
    ) as stream:
        async for _ in stream.text_stream:
            break

    (call,) = await provider.calls(closed=1)
    assert call.outcome == "client_closed"
    assert call.chunks_sent < 400


def test_an_idempotency_key_gives_the_first_message_again(client: anthropic.Anthropic) -> None:
    headers = {"Idempotency-Key": f"contract-{os.urandom(8).hex()}"}

    first = ask(client, extra_headers=headers)
    again = ask(client, extra_headers=headers)

    assert again.id == first.id
    with pytest.raises(anthropic.BadRequestError):
        ask(client, messages=say("Other"), extra_headers=headers)


@pytest.mark.parametrize(
    ("model", "given", "dropped"),
    [
        (OPENAI, {"extra_body": {"top_k": 3, "mcp_servers": [{"name": "x"}]}}, ["mcp_servers", "top_k"]),
        (OPENAI, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, None),
        (ANTHROPIC, {"extra_body": {"top_k": 3}}, []),
    ],
    ids=str,
)
def test_what_a_provider_has_no_word_for_can_be_left_out(
    client: anthropic.Anthropic, model: str, given: dict[str, Any], dropped: list[str] | None
) -> None:
    """None: only whole parameters can be left out, so that a tool of a list stays an error."""
    headers = {"x-headrace-drop-params": "true"}
    asked = {"model": model, "max_tokens": 50, "messages": say("Hello"), "extra_headers": headers, **given}

    if dropped is None:
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(**asked)
        return
    raw = client.messages.with_raw_response.create(**asked)

    told = raw.headers.get("x-headrace-dropped-params", "")
    assert sorted(name for name in told.split(", ") if name) == dropped
    assert raw.parse().content[0].text == "You said: Hello"
