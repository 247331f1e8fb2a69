from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from shared.domain.job import Target
from shared.domain.usage import Usage
from shared.errors import (
    InvalidJson,
    ProviderAnswerInvalid,
    ProviderError,
    ProviderRateLimited,
    ProviderUnavailable,
)
from shared.providers.dialects.openai_chat import openai_chat, read_usage
from shared.providers.profile import ProviderProfile
from shared.providers.sse_reader import SseEvent
from tests.unit.providers.support import (
    GPT,
    OPENAI,
    VLLM,
    a_call,
    comparable,
    decoded,
    events,
    golden,
    message_of,
)

PLAIN = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}'
STREAMED = PLAIN[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'


def encoded(
    body: bytes, *, profile: ProviderProfile = OPENAI, target: Target = GPT, stream: bool = False
) -> bytes:
    request = openai_chat.encode(a_call(profile, target, body=body, stream=stream, include_usage=False))
    assert request.path == "/chat/completions"
    assert request.headers == {}
    return request.body


@pytest.mark.parametrize(("body", "stream"), [(PLAIN, False), (STREAMED, True)])
def test_a_request_that_needs_no_change_is_not_touched(body: bytes, stream: bool) -> None:
    assert encoded(body, stream=stream) is body


def test_a_streamed_request_always_asks_for_usage() -> None:
    asked = orjson.loads(encoded(PLAIN, stream=True))

    assert asked["stream"] is True
    assert asked["stream_options"] == {"include_usage": True}


def test_other_stream_options_are_kept() -> None:
    body = PLAIN[:-1] + b',"stream":true,"stream_options":{"include_obfuscation":false}}'

    asked = orjson.loads(encoded(body, stream=True))

    assert asked["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_a_body_that_asks_to_stream_is_not_streamed_when_the_job_is_not() -> None:
    asked = orjson.loads(encoded(STREAMED))

    assert asked == orjson.loads(PLAIN)


def test_what_looks_like_a_setting_inside_a_prompt_is_only_text() -> None:
    body = orjson.dumps(
        {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": '"include_usage":true,"stream":true'}],
        }
    )

    assert encoded(body) is body
    assert orjson.loads(encoded(body, stream=True))["stream"] is True


def test_the_model_is_that_of_the_target() -> None:
    assert orjson.loads(encoded(PLAIN, target=Target("openai", "gpt-4.1")))["model"] == "gpt-4.1"


def test_parameters_are_renamed_and_dropped_as_the_profile_says() -> None:
    profile = replace(
        OPENAI, renames={"max_completion_tokens": "max_tokens"}, drops=frozenset({"logit_bias"})
    )
    body = PLAIN[:-1] + b',"max_completion_tokens":5,"logit_bias":{"1":2},"top_k":3}'

    asked = orjson.loads(encoded(body, profile=profile))

    assert asked == {**orjson.loads(PLAIN), "max_tokens": 5, "top_k": 3}


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"'])
def test_a_body_that_is_no_object_is_refused_once_it_has_to_be_read(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        encoded(body)


@pytest.mark.parametrize(
    ("name", "usage", "reason"),
    [
        ("openai/text.json", Usage(60, 15, 32, 4), "stop"),
        ("openai/tools.json", Usage(60, 15, 32, 4), "tool_calls"),
        ("vllm/text.json", Usage(9, 20), "stop"),
    ],
)
def test_an_answer_goes_on_as_the_bytes_it_came_in(name: str, usage: Usage, reason: str) -> None:
    body = golden(name)

    answer = openai_chat.decode(body, a_call(OPENAI, GPT))

    assert answer.body is body
    assert answer.usage == usage
    assert answer.finish_reason == reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":{}}',
        b'{"choices":["x"]}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"text":"a completion of the old kind"}]}',
        b'\xff{"choices":[{"message":{}}]}',
    ],
)
def test_what_is_no_completion_is_refused(body: bytes) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        openai_chat.decode(body, a_call(OPENAI, GPT))


def test_an_error_that_came_with_status_200_is_an_error() -> None:
    body = b'{"error":{"message":"Slow down","type":"rate_limit_error","code":429}}'

    with pytest.raises(ProviderRateLimited):
        openai_chat.decode(body, a_call(OPENAI, GPT))


@pytest.mark.parametrize(("total", "completion"), [(135, 103), (41, 9), (0, 9)])
def test_reasoning_that_is_counted_beside_the_completion_is_counted_in(total: int, completion: int) -> None:
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": total,
        "completion_tokens_details": {"reasoning_tokens": 94},
    }

    assert read_usage(usage) == Usage(32, completion, 0, 94)


@pytest.mark.parametrize(
    "usage",
    [b"null", b"{}", b'"many"', b'{"prompt_tokens":-1,"completion_tokens":"3"}', b'{"prompt_tokens":0}'],
)
def test_usage_that_says_nothing_is_none(usage: bytes) -> None:
    body = b'{"choices":[{"message":{}}],"usage":%b}' % usage

    assert openai_chat.decode(body, a_call(OPENAI, GPT)).usage is None


@pytest.mark.parametrize("name", ["text", "tools"])
def test_a_stream_and_a_plain_answer_say_the_same(name: str) -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=True))
    plain = golden(f"openai/{name}.json")

    chunks = decoded(decoder, golden(f"openai/{name}.sse"))

    answer = openai_chat.decode(plain, a_call(OPENAI, GPT))
    assert message_of(chunks) == comparable(orjson.loads(plain)["choices"][0]["message"])
    assert decoder.finished
    assert decoder.usage == answer.usage
    assert decoder.finish_reason == answer.finish_reason


def test_chunks_go_on_as_the_bytes_they_came_in() -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=True))

    passed = [(event.data, decoder.feed(event)) for event in events(golden("openai/text.sse"))]

    assert passed.pop() == (b"[DONE]", [])
    assert all(chunks[0] is data for data, chunks in passed)


def test_the_usage_chunk_is_hidden_from_who_did_not_ask() -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=False))

    chunks = decoded(decoder, golden("openai/text.sse"))

    assert all(chunk["choices"] for chunk in chunks)
    assert decoder.usage == Usage(60, 15, 32, 4)


@pytest.mark.parametrize(
    ("stream", "chars"), [("openai/text.sse", 9), ("openai/tools.sse", 20), ("vllm/reasoning.sse", 16)]
)
def test_generated_characters_are_counted(stream: str, chars: int) -> None:
    decoder = openai_chat.open_stream(a_call(VLLM, GPT, include_usage=False))

    decoded(decoder, golden(stream))

    assert decoder.text_chars == chars


def test_an_error_inside_a_stream_ends_it() -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=False))

    with pytest.raises(ProviderUnavailable) as caught:
        decoded(decoder, golden("openai/error_in_stream.sse"))

    assert caught.value.status == 502
    assert "Sorry" not in caught.value.message
    assert not decoder.finished


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"error": {"code": 429, "message": "x"}}, 429),
        ({"error": {"code": "503", "message": "x"}}, 503),
        ({"error": "text alone"}, 502),
        ({"object": "error", "message": "x", "type": "BadRequestError", "code": 400}, 400),
        ({"error": {"code": 502, "message": "x"}, "choices": [{"delta": {}, "finish_reason": "error"}]}, 502),
        ({"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 429}}]}, 429),
    ],
)
def test_every_form_of_error_inside_a_stream_is_seen(data: dict[str, Any], status: int) -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=False))

    with pytest.raises(ProviderError) as caught:
        decoder.feed(SseEvent("message", orjson.dumps(data)))

    assert caught.value.status == status


@pytest.mark.parametrize("data", [b"{", b"[]", b"3", b'{"choices":{"a":1}}', b'{"choices":["x"]}'])
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=False))

    with pytest.raises(ProviderAnswerInvalid):
        decoder.feed(SseEvent("message", data))


@pytest.mark.parametrize(
    "event", [SseEvent("ping", b"{}"), SseEvent("message", b""), SseEvent("message", b" \n")]
)
def test_pings_pass_in_silence(event: SseEvent) -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=True))

    assert decoder.feed(event) == []


def test_a_chunk_over_several_data_lines_becomes_one_line() -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=True))

    [chunk] = decoder.feed(SseEvent("message", b'{"choices":[{"delta":\n{"content":"a"}}]}'))

    assert b"\n" not in chunk
    assert orjson.loads(chunk) == {"choices": [{"delta": {"content": "a"}}]}


def test_usage_without_choices_gets_the_empty_list_clients_expect() -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=True))

    [chunk] = decoder.feed(SseEvent("message", b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}'))

    assert orjson.loads(chunk)["choices"] == []


def test_nothing_follows_the_end() -> None:
    decoder = openai_chat.open_stream(a_call(OPENAI, GPT, include_usage=True))
    decoder.feed(SseEvent("message", b" [DONE] "))

    assert decoder.feed(SseEvent("message", b'{"choices":[{"delta":{"content":"a"}}]}')) == []
