"""Plain and streamed messages, through the official Anthropic client."""

from __future__ import annotations

import json
import re
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import MessageParam

from tests.contract.anthropic_sdk.conversation import (
    ANTHROPIC,
    BOTH,
    ECHO,
    OPENAI,
    echoed,
    say,
    script,
    text_of,
)
from tests.contract.broker import BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

EMOJI = "Fließend 水車 👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈 ✅ e\u0301 end"
REQUEST_ID = re.compile(r"req_[0-9a-f]{24}")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


@pytest.mark.parametrize("model", BOTH)
def test_a_plain_message_is_whole(client: anthropic.Anthropic, model: str) -> None:
    message = client.messages.create(
        model=model,
        max_tokens=50,
        messages=say("Hello"),
        stop_sequences=["END"],
        # Not among the arguments of the 2.x client any more, and still sent by older ones.
        extra_body={"temperature": 0.5},
    )

    assert message.type == "message"
    assert message.role == "assistant"
    assert message.id.startswith("msg_")
    assert message.model == model.rpartition("/")[2]
    assert text_of(message) == "You said: Hello"
    assert message.stop_reason == "end_turn"
    assert message.stop_sequence is None


@pytest.mark.parametrize("model", BOTH)
def test_tokens_are_reported_as_the_provider_counted_them(client: anthropic.Anthropic, model: str) -> None:
    usage = client.messages.create(model=model, max_tokens=50, messages=say("x" * 40)).usage

    assert (usage.input_tokens, usage.output_tokens) == (10, 13)
    assert usage.cache_read_input_tokens == 0


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize(
    ("finish_reason", "heard"), [("length", "max_tokens"), ("content_filter", "refusal")]
)
def test_reasons_to_stop_keep_their_names(
    client: anthropic.Anthropic, model: str, finish_reason: str, heard: str
) -> None:
    message = client.messages.create(
        model=model, max_tokens=50, messages=script("and so on", finish_reason=finish_reason)
    )

    assert message.stop_reason == heard


@pytest.mark.parametrize("model", BOTH)
async def test_the_asynchronous_client_gets_the_same(
    async_client: anthropic.AsyncAnthropic, model: str
) -> None:
    message = await async_client.messages.create(model=model, max_tokens=50, messages=say("Hello"))
    async with async_client.messages.stream(model=model, max_tokens=50, messages=say("Hello")) as stream:
        streamed = await stream.get_final_message()

    assert text_of(message) == text_of(streamed) == "You said: Hello"


@pytest.mark.parametrize("model", BOTH)
def test_a_stream_says_what_the_plain_message_says(client: anthropic.Anthropic, model: str) -> None:
    plain = client.messages.create(model=model, max_tokens=50, messages=say(EMOJI))
    with client.messages.stream(model=model, max_tokens=50, messages=say(EMOJI)) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()

    assert len(pieces) > 3
    assert "".join(pieces) == text_of(final) == text_of(plain) == f"You said: {EMOJI}"
    assert final.stop_reason == plain.stop_reason == "end_turn"
    assert final.usage.input_tokens == plain.usage.input_tokens
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert final.id.startswith("msg_")


@pytest.mark.parametrize("model", BOTH)
def test_events_come_in_anthropics_order_and_by_their_names(http: httpx.Client, model: str) -> None:
    body = {"model": model, "max_tokens": 50, "messages": say("one two"), "stream": True}

    with http.stream("POST", "/v1/messages", json=body) as response:
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    documents = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert names == [document["type"] for document in documents]
    assert list(dict.fromkeys(names)) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("model", BOTH)
def test_a_stream_goes_on_behind_the_event_id_it_was_left_at(http: httpx.Client, model: str) -> None:
    body = {"model": model, "max_tokens": 50, "messages": say("one two three"), "stream": True}
    whole = http.post("/v1/messages", json=body, headers={"x-stream-ids": "true"}).text
    frames = [frame for frame in whole.split("\n\n") if "data: " in frame]
    third = next(line.removeprefix("id: ") for line in frames[2].splitlines() if line.startswith("id: "))

    rest = http.post("/v1/messages", json=body, headers={"last-event-id": third}).text

    assert [frame for frame in rest.split("\n\n") if "data: " in frame] == frames[3:]
    assert rest.startswith("event: content_block_delta\n")


def test_system_blocks_images_and_documents_reach_a_provider_of_the_other_dialect(
    client: anthropic.Anthropic,
) -> None:
    messages: list[MessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look."},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                    "cache_control": {"type": "ephemeral"},
                },
                {
                    "type": "document",
                    "title": "a.pdf",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
                },
            ],
        }
    ]

    received = echoed(
        client.messages.create(
            model=ECHO,
            max_tokens=50,
            system=[
                {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "And kind."},
            ],
            messages=messages,
            extra_body={"top_k": 40},
            metadata={"user_id": "u-1"},
            extra_headers={"anthropic-beta": "interleaved-thinking-2025-05-14"},
        )
    )

    data = "data:application/pdf;base64,AAAA"
    assert received["body"] == {
        "model": "phi-4",
        "messages": [
            {"role": "system", "content": "Be brief.\nAnd kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
                ],
            },
        ],
        "max_tokens": 50,
        "top_k": 40,
        "user": "u-1",
    }
    assert not [name for name in received["headers"] if name.startswith("anthropic")]


@pytest.mark.parametrize("model", BOTH)
def test_images_and_earlier_thinking_are_understood(client: anthropic.Anthropic, model: str) -> None:
    messages: list[MessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "A dot.", "signature": "EqQB"},
                {"type": "text", "text": "A dot."},
            ],
        },
        {"role": "user", "content": "And now?"},
    ]

    message = client.messages.create(
        model=model,
        max_tokens=4000,
        messages=messages,
        thinking={"type": "enabled", "budget_tokens": 2000},
    )

    assert text_of(message) == "You said: And now?"


THINKING: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."},
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 30,
        "completion_tokens": 9,
        "total_tokens": 39,
        "prompt_tokens_details": {"cached_tokens": 20},
    },
}


def test_thinking_of_another_dialect_becomes_a_block(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=OPENAI, max_tokens=50, messages=script(body=json.dumps(THINKING)))

    thinking, text = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "Hm."
    assert text.type == "text"
    assert text.text == "Yes."
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (10, 20)


def test_anthropic_is_asked_for_the_count_of_its_own_models(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=ANTHROPIC, messages=say("x" * 400), system="y" * 40)

    assert counted.input_tokens == 110


def test_the_count_for_another_model_is_an_estimate_that_grows_with_the_prompt(
    client: anthropic.Anthropic,
) -> None:
    short, long = (
        client.messages.count_tokens(model=OPENAI, messages=say("The mill. " * words)).input_tokens
        for words in (10, 1_000)
    )

    assert 10 < short < 60
    assert 2_000 < long < 4_000


def test_a_count_is_nothing_used(client: anthropic.Anthropic, http: httpx.Client) -> None:
    client.messages.create(model=ANTHROPIC, max_tokens=50, messages=say("Hello"))
    before = _tokens_used(http)
    assert before

    client.messages.count_tokens(model=ANTHROPIC, messages=say("x" * 4000))

    assert _tokens_used(http) == before


def test_every_message_carries_the_request_id_of_its_header(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=ANTHROPIC, max_tokens=50, messages=say("Hello"))

    assert message._request_id is not None
    assert REQUEST_ID.fullmatch(message._request_id)


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
@pytest.mark.parametrize("version", ["2023-06-01", "2099-12-31", None])
def test_either_header_and_any_version_will_do(
    broker: BrokerUnderTest, header: str, version: str | None
) -> None:
    key = broker.api_key if header == "x-api-key" else f"Bearer {broker.api_key}"
    headers = {header: key, **({"anthropic-version": version} if version else {})}
    body = {"model": ANTHROPIC, "max_tokens": 50, "messages": say("Hello")}

    answer = httpx.post(f"{broker.url}/v1/messages?beta=true", json=body, headers=headers, timeout=30)

    assert answer.status_code == 200
    assert answer.json()["content"][0]["text"] == "You said: Hello"


def test_the_beta_client_speaks_the_same_form(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.create(
        model=ANTHROPIC, max_tokens=50, messages=[{"role": "user", "content": "Hello"}], betas=["files-api"]
    )

    (block,) = message.content
    assert block.type == "text"
    assert block.text == "You said: Hello"


def test_parameters_unknown_here_reach_the_provider(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=ECHO, max_tokens=50, messages=say("Hello"), extra_body={"repetition_penalty": 1.1}
    )

    assert echoed(message)["body"]["repetition_penalty"] == 1.1


def _tokens_used(http: httpx.Client) -> list[str]:
    lines = http.get("/metrics").text.splitlines()
    return [line for line in lines if "tokens_total{" in line and 'provider="anthropic"' in line]
