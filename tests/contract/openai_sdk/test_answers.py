"""Plain answers, through the official OpenAI client."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from tests.contract.broker import BrokerUnderTest
from tests.contract.openai_sdk.conversation import ANTHROPIC, BOTH, OPENAI, hear, say, script

pytestmark = pytest.mark.xdist_group("contract")

LONG = ("A headrace brings water to a mill. " * 6_000)[:199_000] + " 水車 👩‍🔧 the end"
REQUEST_ID = re.compile(r"req_[0-9a-f]{24}")


@pytest.mark.parametrize("model", BOTH)
def test_a_plain_answer_is_whole(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=say("Hello"), temperature=0.5, max_tokens=50
    )

    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "You said: Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == model.rpartition("/")[2]


@pytest.mark.parametrize("model", BOTH)
async def test_the_asynchronous_client_gets_the_same(async_client: openai.AsyncOpenAI, model: str) -> None:
    answer = await async_client.chat.completions.create(model=model, messages=say("Hello"))

    assert answer.choices[0].message.content == "You said: Hello"


@pytest.mark.parametrize("model", BOTH)
def test_tokens_are_reported_as_the_provider_counted_them(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=say("x" * 40))

    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 10
    assert answer.usage.completion_tokens == 13
    assert answer.usage.total_tokens == 23


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize(
    ("finish_reason", "heard"), [("length", "length"), ("content_filter", "content_filter")]
)
def test_reasons_to_stop_keep_their_names(
    client: openai.OpenAI, model: str, finish_reason: str, heard: str
) -> None:
    answer = client.chat.completions.create(
        model=model, messages=script("and so on", finish_reason=finish_reason)
    )

    assert answer.choices[0].finish_reason == heard


@pytest.mark.parametrize("model", BOTH)
def test_a_prompt_of_200_kilobytes_passes_unchanged(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=say(LONG))

    assert answer.choices[0].message.content == f"You said: {LONG}"


@pytest.mark.parametrize("model", BOTH)
def test_a_prompt_of_200_kilobytes_is_answered_with_a_stream(client: openai.OpenAI, model: str) -> None:
    messages = script(LONG, text="As long as it is.")

    heard = hear(
        client.chat.completions.create(
            model=model, messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )

    assert heard.text == "As long as it is."
    assert heard.usages[0].prompt_tokens >= len(LONG) // 4


def test_parts_of_content_and_earlier_turns_are_understood(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=ANTHROPIC,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "You said: One"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Two "}, {"type": "text", "text": "parts"}],
            },
        ],
    )

    assert answer.choices[0].message.content == "You said: Two parts"


@pytest.mark.parametrize("stream", [False, True])
def test_parameters_unknown_here_reach_the_provider(client: openai.OpenAI, stream: bool) -> None:
    received = _echoed(client, stream=stream)["body"]

    assert received["repetition_penalty"] == 1.1
    assert received["guided_json"] == {"type": "object", "nested": [1, None, {"deep": "ü"}]}
    assert received["messages"][0]["vendor_hint"] == "kept"
    assert received["seed"] == 7
    assert received["model"] == "phi-4"


def test_nothing_that_identifies_the_caller_reaches_the_provider(
    client: openai.OpenAI, broker: BrokerUnderTest
) -> None:
    received = _echoed(client, stream=False)

    assert received["headers"]["authorization"] == "Bearer sk-of-the-echo"
    assert broker.api_key not in json.dumps(received)
    assert not [name for name in received["headers"] if name.startswith(("x-stainless", "openai-"))]


def test_every_answer_carries_the_request_id_of_its_header(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=OPENAI, messages=say("Hello"))
    answer = raw.parse()

    assert answer._request_id == raw.headers["x-request-id"]
    assert REQUEST_ID.fullmatch(raw.headers["x-request-id"])


def test_a_request_id_of_the_callers_own_is_kept(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=OPENAI, messages=say("Hello"), extra_headers={"x-request-id": "trace_of-mine-42"}
    )
    with client.chat.completions.create(
        model=OPENAI, messages=say("Hello"), stream=True, extra_headers={"x-request-id": "trace_of-mine-43"}
    ) as stream:
        streamed_id = stream.response.headers["x-request-id"]

    assert answer._request_id == "trace_of-mine-42"
    assert streamed_id == "trace_of-mine-43"


@pytest.mark.parametrize("offered", ["short", "x" * 65, "with space", "semi;colon-and-more"])
def test_a_request_id_that_is_not_harmless_is_replaced(client: openai.OpenAI, offered: str) -> None:
    answer = client.chat.completions.create(
        model=OPENAI, messages=say("Hello"), extra_headers={"x-request-id": offered}
    )

    assert answer._request_id is not None
    assert REQUEST_ID.fullmatch(answer._request_id)


def _echoed(client: openai.OpenAI, *, stream: bool) -> Any:
    messages = [{"role": "user", "content": "Hello", "vendor_hint": "kept"}]
    extra = {
        "messages": messages,
        "repetition_penalty": 1.1,
        "guided_json": {"type": "object", "nested": [1, None, {"deep": "ü"}]},
    }
    headers = {"openai-organization": "org-of-the-caller"}
    if stream:
        text = hear(
            client.chat.completions.create(
                model="echo/phi-4", messages=[], seed=7, stream=True, extra_body=extra, extra_headers=headers
            )
        ).text
    else:
        answer = client.chat.completions.create(
            model="echo/phi-4", messages=[], seed=7, extra_body=extra, extra_headers=headers
        )
        text = answer.choices[0].message.content or ""
    return json.loads(text)
