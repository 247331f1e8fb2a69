"""Messages for Anthropic from callers who speak its form: what passes, and what is read on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind
from shared.domain.usage import Usage
from shared.errors import InvalidJson, InvalidRequest, ProviderAnswerInvalid, ProviderError
from shared.providers.dialect import Codec, StreamDecoder
from shared.providers.dialects.anthropic import wanted_api
from shared.providers.sse_reader import SseEvent
from tests.unit.providers.support import ANTHROPIC, CLAUDE, a_call, decoded, events, golden

MESSAGES: Codec = ANTHROPIC.codec(JobKind.MESSAGES)
COUNT: Codec = ANTHROPIC.codec(JobKind.COUNT_TOKENS)
USAGE = Usage(
    prompt_tokens=160,
    completion_tokens=61,
    cached_tokens=130,
    cache_write_tokens=22,
    cache_write_1h_tokens=10,
)
REQUEST = {
    "model": CLAUDE.model,
    "max_tokens": 7,
    "messages": [{"role": "user", "content": [{"type": "something_new", "model": "x", "stream": True}]}],
    "top_k": 3,
}
START = SseEvent("message_start", b'{"type":"message_start","message":{"id":"msg_1","usage":{}}}')


def sent(request: dict[str, Any], *, stream: bool = False) -> Any:
    encoded = MESSAGES.encode(a_call(ANTHROPIC, CLAUDE, body=orjson.dumps(request), stream=stream))
    return orjson.loads(encoded.body)


def a_stream() -> StreamDecoder:
    return MESSAGES.open_stream(a_call(ANTHROPIC, CLAUDE, stream=True))


def test_a_request_passes_byte_for_byte() -> None:
    body = b' {"max_tokens" : 7, "model":"claude-sonnet-4-5",\n"messages":[], "temperature": 1.0} '

    assert MESSAGES.encode(a_call(ANTHROPIC, CLAUDE, body=body)).body == body


def test_only_the_model_and_the_wish_for_a_stream_are_set_right() -> None:
    plain = {**REQUEST, "model": "anthropic/claude-sonnet-4-5", "stream": True}

    assert sent(plain) == REQUEST
    assert sent(REQUEST, stream=True) == {**REQUEST, "stream": True}


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://proxy.example/v1/", "https://proxy.example/v1/messages"),
    ],
)
def test_the_paths_fit_base_urls_with_and_without_v1(base_url: str, url: str) -> None:
    profile = ANTHROPIC.with_base_url(base_url)
    call = a_call(profile, CLAUDE, body=orjson.dumps(REQUEST))

    assert profile.url(MESSAGES.encode(call).path, JobKind.MESSAGES) == url
    assert profile.url(COUNT.encode(call).path, JobKind.COUNT_TOKENS) == f"{url}/count_tokens"


def test_the_path_fits_the_base_url_of_messages_alone() -> None:
    profile = replace(ANTHROPIC, bases={JobKind.MESSAGES: "https://elsewhere.example/v1"})

    path = MESSAGES.encode(a_call(profile, CLAUDE, body=orjson.dumps(REQUEST))).path

    assert profile.url(path, JobKind.MESSAGES) == "https://elsewhere.example/v1/messages"


def test_version_and_betas_travel_inside_the_body_and_leave_as_headers() -> None:
    document = dict(REQUEST)
    headers = {"anthropic-version": "2026-10-21", "anthropic-beta": "files-api-2025-04-14, , b"}

    changed = wanted_api.carry(headers, document)
    request = MESSAGES.encode(a_call(ANTHROPIC, CLAUDE, body=orjson.dumps(document)))

    assert changed
    assert request.headers == {"anthropic-version": "2026-10-21", "anthropic-beta": "files-api-2025-04-14,b"}
    assert orjson.loads(request.body) == REQUEST


def test_a_caller_who_wants_no_api_in_particular_changes_nothing() -> None:
    document = dict(REQUEST)

    assert not wanted_api.carry({}, document)
    assert document == REQUEST


@pytest.mark.parametrize(
    "wanted",
    [
        {"anthropic_version": "a\r\nb: c"},
        {"anthropic_version": 3},
        {"anthropic_beta": ["a", "b\n"]},
        {"anthropic_beta": {"a": "b"}},
        {"anthropic_beta": "a b"},
    ],
    ids=str,
)
def test_what_could_not_be_a_header_is_named(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent({**REQUEST, **wanted})

    assert caught.value.param == next(iter(wanted))
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"{", b"[]", b"null"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        MESSAGES.encode(a_call(ANTHROPIC, CLAUDE, body=body))


@pytest.mark.parametrize("name", ["text", "tools"])
def test_an_answer_is_read_and_passed_on_byte_for_byte(name: str) -> None:
    body = golden(f"anthropic/{name}.json")

    answer = MESSAGES.decode(body, a_call(ANTHROPIC, CLAUDE))

    assert answer.body == body
    assert answer.usage == USAGE
    assert answer.finish_reason == {"text": "stop", "tools": "tool_calls"}[name]


@pytest.mark.parametrize("name", ["text", "tools"])
def test_a_stream_is_read_and_passed_on_without_its_pings(name: str) -> None:
    decoder = a_stream()
    wire = golden(f"anthropic/{name}.sse")

    documents = [document for event in events(wire) for document in decoder.feed(event)]

    assert documents == [event.data.strip() for event in events(wire) if event.event != "ping"]
    assert decoder.usage == USAGE
    assert decoder.finish_reason == {"text": "stop", "tools": "tool_calls"}[name]
    assert decoder.finished
    assert decoder.end() == []
    assert decoder.text_chars > 5


def test_an_event_of_several_lines_becomes_one_line() -> None:
    lines = [b'{"type":"message_start",', b'"message":{"usage":{"input_tokens":3}}}']
    wire = b"event: message_start\ndata: %b\ndata: %b\n\n" % (lines[0], lines[1])

    decoder = a_stream()
    [document] = [each for event in events(wire) for each in decoder.feed(event)]

    assert document == b'{"type":"message_start","message":{"usage":{"input_tokens":3}}}'
    assert decoder.usage == Usage(3, 0)


def test_an_event_that_says_its_type_last_says_it_first() -> None:
    """The name on the wire is the first `type` in the document."""
    decoder = a_stream()
    decoder.feed(START)
    delta = b'{"index":0,"delta":{"type":"text_delta","text":"a"},"type":"content_block_delta"}'

    assert decoder.feed(SseEvent("content_block_delta", delta)) == [
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}'
    ]


def test_an_event_of_a_later_release_passes() -> None:
    decoder = a_stream()
    decoder.feed(START)

    assert decoder.feed(SseEvent("news", b'{"type":"news"}')) == [b'{"type":"news"}']


def test_a_stream_that_ends_behind_its_stop_reason_gets_its_last_event() -> None:
    decoder = a_stream()
    decoder.feed(START)
    decoder.feed(SseEvent("x", b'{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}'))

    assert decoder.finish_reason == "length"
    assert not decoder.finished
    assert decoder.end() == [b'{"type":"message_stop"}']


@pytest.mark.parametrize(
    ("kind", "status"), [("overloaded_error", 503), ("invalid_request_error", 400), ("something_new", 502)]
)
def test_an_error_is_an_error_though_it_came_with_status_200(kind: str, status: int) -> None:
    document = orjson.dumps({"type": "error", "error": {"type": kind, "message": "x"}})

    for codec in (MESSAGES, COUNT):
        with pytest.raises(ProviderError) as plain:
            codec.decode(document, a_call(ANTHROPIC, CLAUDE))
        assert plain.value.status == status
    with pytest.raises(ProviderError) as streamed:
        a_stream().feed(SseEvent("error", document))
    assert streamed.value.status == status


def test_an_error_in_the_golden_stream_ends_it() -> None:
    decoder = a_stream()

    with pytest.raises(ProviderError):
        decoded(decoder, golden("anthropic/error_in_stream.sse"))

    assert not decoder.finished


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        b"[]",
        b'"ping"',
        b'{"type":3}',
        b'{"type":"message_start"}',
        b'{"type":"content_block_stop","index":0}',
        b'{"type":"message_stop"}',
    ],
)
def test_what_is_no_event_or_comes_before_the_start_is_refused(document: bytes) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        a_stream().feed(SseEvent("message", document))


@pytest.mark.parametrize(
    "document",
    [
        START.data,
        b'{"type":"content_block_delta","index":0}',
        b'{"type":"content_block_delta","index":0,"delta":{"text":"a"}}',
    ],
)
def test_a_second_start_and_a_delta_of_no_kind_are_refused(document: bytes) -> None:
    decoder = a_stream()
    decoder.feed(START)

    with pytest.raises(ProviderAnswerInvalid):
        decoder.feed(SseEvent("message", document))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"content":"text"}', b'{"content":["a"]}'])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        MESSAGES.decode(body, a_call(ANTHROPIC, CLAUDE))


def test_a_count_of_tokens_is_passed_on_and_was_no_use_of_any() -> None:
    answer = COUNT.decode(b'{"input_tokens": 2095}', a_call(ANTHROPIC, CLAUDE))

    assert answer.body == b'{"input_tokens": 2095}'
    assert answer.usage == Usage()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"input_tokens":"3"}', b'{"input_tokens":true}'])
def test_what_is_no_count_is_refused(body: bytes) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        COUNT.decode(body, a_call(ANTHROPIC, CLAUDE))
