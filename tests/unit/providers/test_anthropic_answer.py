from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.usage import Usage
from shared.errors import ProviderAnswerInvalid, ProviderError, ProviderUnavailable
from shared.providers.dialects.anthropic.stream import AnthropicStream
from shared.providers.sse_reader import SseEvent
from tests.unit.providers.support import (
    ANTHROPIC,
    CLAUDE,
    a_call,
    anthropic_messages,
    comparable,
    decoded,
    golden,
    message_of,
)

USAGE = Usage(
    prompt_tokens=160,
    completion_tokens=61,
    cached_tokens=130,
    cache_write_tokens=22,
    cache_write_1h_tokens=10,
)


def a_stream(*, include_usage: bool = True) -> AnthropicStream:
    return anthropic_messages.open_stream(a_call(ANTHROPIC, CLAUDE, include_usage=include_usage))


def event(document: dict[str, Any]) -> SseEvent:
    return SseEvent(str(document.get("type", "message")), orjson.dumps(document))


START = event({"type": "message_start", "message": {"id": "msg_1", "model": "claude-x", "usage": {}}})


@pytest.mark.parametrize("name", ["text", "tools"])
def test_a_message_becomes_a_completion(name: str) -> None:
    answer = anthropic_messages.decode(golden(f"anthropic/{name}.json"), a_call(ANTHROPIC, CLAUDE))

    assert orjson.loads(answer.body) == orjson.loads(golden(f"anthropic/{name}.canonical.json"))
    assert answer.usage == USAGE


@pytest.mark.parametrize("name", ["text", "tools"])
def test_a_stream_says_the_same_as_the_plain_answer(name: str) -> None:
    decoder = a_stream()
    plain = orjson.loads(golden(f"anthropic/{name}.canonical.json"))

    chunks = decoded(decoder, golden(f"anthropic/{name}.sse"))

    assert message_of(chunks) == comparable(plain["choices"][0]["message"])
    assert decoder.usage == USAGE
    assert decoder.finish_reason == plain["choices"][0]["finish_reason"]
    assert decoder.finished


def test_the_chunks_have_the_form_of_openais() -> None:
    chunks = decoded(a_stream(), golden("anthropic/tools.sse"))

    assert {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        ("chatcmpl-01Golden", 1767225600, "claude-sonnet-4-5-20250929", "chat.completion.chunk")
    }
    *content, finish, usage = chunks
    assert content[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(chunk["choices"][0]["finish_reason"] is None and chunk["usage"] is None for chunk in content)
    assert finish["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}]
    assert usage["choices"] == []
    assert usage["usage"] == orjson.loads(golden("anthropic/tools.canonical.json"))["usage"]


def test_a_tool_call_opens_with_its_name_and_goes_on_with_fragments() -> None:
    deltas = [
        chunk["choices"][0]["delta"] for chunk in decoded(a_stream(), golden("anthropic/tools.sse"))[:-1]
    ]

    assert [delta["tool_calls"] for delta in deltas if "tool_calls" in delta] == [
        [
            {
                "index": 0,
                "id": "toolu_01A",
                "type": "function",
                "function": {"name": "read_file", "arguments": ""},
            }
        ],
        [{"index": 0, "function": {"arguments": '{"path": "/tmp'}}],
        [{"index": 0, "function": {"arguments": '/ä"}'}}],
        [
            {
                "index": 1,
                "id": "toolu_01B",
                "type": "function",
                "function": {"name": "list_files", "arguments": ""},
            }
        ],
        [{"index": 1, "function": {"arguments": "{}"}}],
    ]


def test_thinking_is_told_once_more_whole_and_signed_with_an_index_of_its_own() -> None:
    """OpenAI's client puts lists of several chunks together by the index of their entries."""
    decoder = a_stream()
    decoder.feed(START)
    blocks = [{"type": "redacted_thinking", "data": "a"}, {"type": "redacted_thinking", "data": "b"}]

    told = []
    for index, block in enumerate(blocks):
        decoder.feed(event({"type": "content_block_start", "index": index, "content_block": block}))
        told += decoder.feed(event({"type": "content_block_stop", "index": index}))

    assert [orjson.loads(chunk)["choices"][0]["delta"]["thinking_blocks"] for chunk in told] == [
        [{"index": 0, "type": "redacted_thinking", "data": "a"}],
        [{"index": 1, "type": "redacted_thinking", "data": "b"}],
    ]


def test_usage_is_not_mentioned_to_who_did_not_ask() -> None:
    decoder = a_stream(include_usage=False)

    chunks = decoded(decoder, golden("anthropic/text.sse"))

    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert decoder.usage == USAGE


def test_generated_characters_are_counted() -> None:
    text, tools = a_stream(), a_stream()
    decoded(text, golden("anthropic/text.sse"))
    decoded(tools, golden("anthropic/tools.sse"))

    assert text.text_chars == len("Grüße, 🌍!")
    assert tools.text_chars == len('The user wants two files.I will read both.{"path": "/tmp/ä"}{}')


def test_usage_is_known_from_the_first_event_on() -> None:
    decoder = a_stream()
    assert decoder.usage is None

    decoder.feed(
        event({"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}})
    )

    assert decoder.usage == Usage(7, 1)


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_stop_reasons_are_translated_plain_and_streamed(stop_reason: str, finish: str) -> None:
    decoder = a_stream()
    decoder.feed(START)

    answer = anthropic_messages.decode(
        orjson.dumps({"type": "message", "content": [], "stop_reason": stop_reason}),
        a_call(ANTHROPIC, CLAUDE),
    )
    decoder.feed(event({"type": "message_delta", "delta": {"stop_reason": stop_reason}}))

    assert answer.finish_reason == decoder.finish_reason == finish


def test_an_error_inside_a_stream_ends_it() -> None:
    decoder = a_stream()

    with pytest.raises(ProviderUnavailable) as caught:
        decoded(decoder, golden("anthropic/error_in_stream.sse"))

    assert caught.value.status == 503
    assert not decoder.finished


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("invalid_request_error", 400),
        ("authentication_error", 502),
        ("billing_error", 502),
        ("permission_error", 502),
        ("not_found_error", 404),
        ("request_too_large", 413),
        ("rate_limit_error", 429),
        ("api_error", 502),
        ("timeout_error", 502),
        ("overloaded_error", 503),
        ("something_new", 502),
    ],
)
def test_an_error_is_known_by_its_type_when_it_came_with_status_200(kind: str, status: int) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "x"}}

    with pytest.raises(ProviderError) as streamed:
        a_stream().feed(event(error))
    with pytest.raises(ProviderError) as plain:
        anthropic_messages.decode(orjson.dumps(error), a_call(ANTHROPIC, CLAUDE))

    assert streamed.value.status == plain.value.status == status


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"content":"text"}', b'{"content":["text"]}', b"null"]
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        anthropic_messages.decode(body, a_call(ANTHROPIC, CLAUDE))


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        b"[]",
        b'{"type":"message_start"}',
        b'{"type":"content_block_start"}',
        b'{"type":"content_block_delta"}',
        b'{"type":"content_block_delta","delta":{"type":"text_delta","text":3}}',
    ],
)
def test_what_is_no_event_is_refused(document: bytes) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        a_stream().feed(SseEvent("message", document))


def test_content_before_the_start_and_a_second_start_are_refused() -> None:
    delta = event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}})
    started = a_stream()
    started.feed(START)

    with pytest.raises(ProviderAnswerInvalid):
        a_stream().feed(delta)
    with pytest.raises(ProviderAnswerInvalid):
        started.feed(START)


@pytest.mark.parametrize(
    "document",
    [
        {"type": "ping"},
        {"type": "something_new"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {}}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "server_tool_use", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": "{"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}},
    ],
)
def test_what_has_no_counterpart_passes_in_silence(document: dict[str, Any]) -> None:
    decoder = a_stream()
    decoder.feed(START)

    assert decoder.feed(event(document)) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
blocks = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=40)),
        st.builds(
            lambda text: {"type": "thinking", "thinking": text, "signature": "s"}, st.text(max_size=40)
        ),
        st.builds(
            lambda number, value: {
                "type": "tool_use",
                "id": f"toolu_{number}",
                "name": "look",
                "input": value,
            },
            st.integers(0, 99),
            st.dictionaries(st.text(max_size=8), json_values, max_size=3),
        ),
        st.builds(lambda data: {"type": "redacted_thinking", "data": data}, st.text(max_size=9)),
        st.just(
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
        ),
    ),
    max_size=5,
)


def an_end(**usage: Any) -> SseEvent:
    return event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})


def test_what_a_stream_kept_is_as_it_says_last() -> None:
    opening = {"input_tokens": 5, "cache_creation_input_tokens": 40}
    split = {"cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30}}
    decoder = a_stream()

    decoder.feed(event({"type": "message_start", "message": {"usage": {**opening, **split}}}))
    assert decoder.usage == Usage(45, 0, cache_write_tokens=40, cache_write_1h_tokens=30)
    decoder.feed(an_end(output_tokens=2))
    assert decoder.usage == Usage(45, 2, cache_write_tokens=40, cache_write_1h_tokens=30)
    decoder.feed(an_end(cache_creation_input_tokens=60, cache_creation={"ephemeral_1h_input_tokens": 50}))
    assert decoder.usage == Usage(65, 2, cache_write_tokens=60, cache_write_1h_tokens=50)


@pytest.mark.parametrize(
    ("split", "for_an_hour"),
    [
        (None, 0),
        ("all", 0),
        ([30], 0),
        ({}, 0),
        ({"ephemeral_1h_input_tokens": "30"}, 0),
        ({"ephemeral_1h_input_tokens": -1}, 0),
        ({"ephemeral_1h_input_tokens": True}, 0),
        ({"ephemeral_1h_input_tokens": 30}, 30),
        ({"ephemeral_1h_input_tokens": 10**18}, 40),
    ],
)
def test_of_what_was_kept_not_more_is_kept_for_an_hour(split: Any, for_an_hour: int) -> None:
    counts = {"input_tokens": 5, "cache_creation_input_tokens": 40, "cache_creation": split}
    message = {"content": [], "stop_reason": "end_turn", "usage": counts}

    answer = anthropic_messages.decode(orjson.dumps(message), a_call(ANTHROPIC, CLAUDE))

    assert answer.usage == Usage(45, 0, cache_write_tokens=40, cache_write_1h_tokens=for_an_hour)
    assert orjson.loads(answer.body)["usage"]["prompt_tokens"] == 45


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def as_events(content: list[dict[str, Any]], cuts: list[int]) -> list[dict[str, Any]]:
    """The events Anthropic would stream a message of these blocks in, cut anywhere."""
    usage = {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1}
    found: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "msg_1", "model": "claude-x", "usage": usage}}
    ]
    for index, block in enumerate(content):
        if block["type"] == "redacted_thinking":
            found.append({"type": "content_block_start", "index": index, "content_block": dict(block)})
            found.append({"type": "content_block_stop", "index": index})
            continue
        source, kind, empty = {
            "text": ("text", "text_delta", ""),
            "thinking": ("thinking", "thinking_delta", ""),
        }.get(block["type"], ("input", "input_json_delta", {}))
        opening = {**block, source: empty}
        if kind == "thinking_delta":
            opening["signature"] = ""
        found.append({"type": "content_block_start", "index": index, "content_block": opening})
        found.append({"type": "ping"})
        text = block[source] if isinstance(block[source], str) else orjson.dumps(block[source]).decode()
        if text == "{}":
            text = ""
        field = "partial_json" if kind == "input_json_delta" else source
        found += [
            {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}}
            for piece in pieces(text, cuts)
        ]
        if kind == "thinking_delta":
            signed = {"type": "signature_delta", "signature": block["signature"]}
            found.append({"type": "content_block_delta", "index": index, "delta": signed})
        found.append({"type": "content_block_stop", "index": index})
    found.append(
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}
    )
    found.append({"type": "message_stop"})
    return found


@given(content=blocks, cuts=st.lists(st.integers(0, 1000), max_size=4), include_usage=st.booleans())
def test_any_message_decodes_the_same_plain_and_streamed(
    content: list[dict[str, Any]], cuts: list[int], include_usage: bool
) -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 9}
    plain = anthropic_messages.decode(
        orjson.dumps(
            {
                "type": "message",
                "id": "msg_1",
                "model": "claude-x",
                "content": content,
                "stop_reason": "end_turn",
                "usage": usage,
            }
        ),
        a_call(ANTHROPIC, CLAUDE),
    )
    decoder = a_stream(include_usage=include_usage)

    chunks = [
        orjson.loads(chunk)
        for document in as_events(content, cuts)
        for chunk in decoder.feed(event(document))
    ]

    completion = orjson.loads(plain.body)
    assert message_of(chunks) == comparable(completion["choices"][0]["message"])
    assert decoder.usage == plain.usage
    assert decoder.finish_reason == plain.finish_reason
    assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [completion["usage"]] * include_usage
