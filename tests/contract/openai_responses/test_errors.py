"""What is refused, and how the official OpenAI client raises it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.contract.openai_responses.conversation import ANTHROPIC, OPENAI, hear, script
from tests.fakes.provider import ScriptedProvider

pytestmark = pytest.mark.xdist_group("contract")

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"include": ["reasoning.encrypted_content"]}, "include"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "tools[0]"),
    ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools[0]"),
    ({"tools": [{"type": "mcp", "server_label": "a", "server_url": "https://a.example"}]}, "tools[0]"),
    ({"tools": [{"type": "computer"}]}, "tools[0]"),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    ({"input": [{"id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "computer_call_output", "call_id": "c", "output": {}}]}, "input[0]"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]},
        "input[0].content[0].image_url",
    ),
    ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ({"messages": []}, "messages"),
    ({"n": 2}, "n"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("extra", "param"), REFUSED, ids=[json.dumps(extra)[:50] for extra, _ in REFUSED])
def test_what_cannot_be_carried_over_is_named(
    client: openai.OpenAI, extra: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=OPENAI, input="Hello", stream=stream, extra_body=extra)

    assert raised.value.param == param
    assert raised.value.code == "unsupported_parameter"
    assert raised.value.type == "invalid_request_error"


def test_what_only_this_provider_lacks_is_named_as_the_caller_wrote_it(client: openai.OpenAI) -> None:
    for extra, param in (
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
    ):
        with pytest.raises(openai.BadRequestError) as raised:
            client.responses.create(model=ANTHROPIC, input="Hello", extra_body=extra)
        assert raised.value.param == param


def test_what_cannot_be_carried_over_is_left_out_on_demand(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/responses",
        json={
            "model": ANTHROPIC,
            "input": "Hello",
            "text": {"format": {"type": "json_object"}},
            "top_logprobs": 2,
        },
        headers={"x-headrace-drop-params": "true"},
    )

    assert answer.status_code == 200
    assert set(answer.headers["x-headrace-dropped-params"].split(", ")) == {
        "text",
        "top_logprobs",
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "Hello"}, "model"),
        ({"model": OPENAI}, "input"),
        ({"model": OPENAI, "input": []}, "input"),
        ({"model": OPENAI, "input": 7}, "input"),
        ({"model": OPENAI, "input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        (
            {"model": OPENAI, "input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]},
            "input[0].content[0].text",
        ),
        (
            {"model": OPENAI, "input": [{"type": "function_call", "call_id": "c", "name": "f"}]},
            "input[0].arguments",
        ),
        ({"model": OPENAI, "input": "x", "temperature": 9}, "temperature"),
        ({"model": OPENAI, "input": "x", "max_output_tokens": "7"}, "max_output_tokens"),
        ({"model": OPENAI, "input": "x", "tools": [{"type": "function"}]}, "tools[0].name"),
        (
            {"model": OPENAI, "input": "x", "text": {"format": {"type": "json_schema", "name": "a"}}},
            "text.format.schema",
        ),
        ({"model": OPENAI, "input": "x", "store": "no"}, "store"),
    ],
    ids=str,
)
def test_what_is_not_of_this_form_is_named(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/responses", json=body)

    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("cue", "raises"),
    [
        ({"status": 400}, openai.BadRequestError),
        ({"status": 401}, openai.InternalServerError),
        ({"status": 404}, openai.NotFoundError),
        ({"status": 422}, openai.UnprocessableEntityError),
        ({"status": 429}, openai.RateLimitError),
        ({"status": 500}, openai.InternalServerError),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_failures_of_the_provider_keep_their_class(
    client: openai.OpenAI, cue: dict[str, Any], raises: type[openai.APIStatusError], stream: bool
) -> None:
    with pytest.raises(raises):
        client.responses.create(model=OPENAI, input=script(**cue), stream=stream)


def test_an_unknown_model_and_a_wrong_key(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="nobody/nothing", input="Hello")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="gw_live_wrong").responses.create(model=OPENAI, input="Hello")

    assert unknown.value.code == "model_not_found"


async def test_a_hiccup_of_the_provider_is_not_heard_of(
    client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    said = script("Hello", status=500, fail_times={"key": "responses", "n": 1})

    _, response = hear(client.responses.create(model=OPENAI, input=said, stream=True))

    assert response.output_text == "You said: Hello"
    assert [call.status for call in await provider.calls()] == [500, 200]


def test_a_previous_response_that_is_not_there_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=OPENAI, input="Hello", previous_response_id="resp_" + "0" * 32)

    assert raised.value.code == "previous_response_not_found"
    assert raised.value.param == "previous_response_id"
