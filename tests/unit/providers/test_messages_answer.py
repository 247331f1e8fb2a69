"""A chat completion as an Anthropic message, plain and in events."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from shared.domain.job import JobKind
from shared.domain.usage import Usage
from shared.errors import ProviderAnswerInvalid, ProviderError
from shared.providers.dialect import Call, StreamDecoder
from shared.providers.sse_reader import SseEvent
from tests.unit.providers.support import GPT, OPENAI, a_call, decoded, events, golden

BODY = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 40}]})
MESSAGES = OPENAI.codec(JobKind.MESSAGES)
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 9,
    "total_tokens": 109,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
COUNTS = {
    "input_tokens": 30,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 60,
    "output_tokens": 9,
    "output_tokens_details": {"thinking_tokens": 4},
}
_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def the_call() -> Call:
    return a_call(OPENAI, GPT, body=BODY, stream=True)


def plain(message: dict[str, Any], *, finish: str | None = "stop", usage: Any = USAGE) -> dict[str, Any]:
    completion = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-mini-x",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }
    answer: dict[str, Any] = orjson.loads(MESSAGES.decode(orjson.dumps(completion), the_call()).body)
    return answer


def chunk(delta: dict[str, Any], **more: Any) -> SseEvent:
    choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
    document = {"id": "chatcmpl-1", "model": "gpt-4o-mini-x", "choices": [choice]}
    return SseEvent("message", orjson.dumps(document))


def calls(*fragments: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": list(fragments)}


def opened(index: int, identity: str, arguments: str = "", name: str = "look") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": identity, "type": "function", "function": function}


def more(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}


def streamed(
    *deltas: dict[str, Any], finish: str | None = "stop", usage: Any = USAGE
) -> list[dict[str, Any]]:
    decoder = MESSAGES.open_stream(the_call())
    documents = [document for delta in deltas for document in decoder.feed(chunk(delta))]
    documents += decoder.feed(chunk({}, finish_reason=finish))
    if usage is not None:
        documents += decoder.feed(SseEvent("message", orjson.dumps({"choices": [], "usage": usage})))
    documents += decoder.feed(SseEvent("message", b"[DONE]"))
    assert decoder.finished
    return [orjson.loads(document) for document in [*documents, *decoder.end()]]


def put_together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The message, by the rule of Anthropic's own client; events must come in Anthropic's order."""
    check_order(found)
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in found:
        if event["type"] != "message_stop":
            snapshot = accumulate_event(
                event=_EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=buffers
            )
    message: dict[str, Any] = orjson.loads(snapshot.to_json(exclude_unset=True))
    return message


def check_order(found: list[dict[str, Any]]) -> None:
    kinds = [event["type"] for event in found]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert all(next(iter(event)) == "type" for event in found), "the name of an event is its first type"
    open_at: int | None = None
    closed = 0
    for event in found[1:-2]:
        match event["type"]:
            case "content_block_start":
                assert open_at is None
                assert event["index"] == closed
                open_at = closed
            case "content_block_delta":
                assert event["index"] == open_at
            case "content_block_stop":
                assert event["index"] == open_at
                open_at, closed = None, closed + 1
            case kind:
                raise AssertionError(kind)
    assert open_at is None


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """Without what only one of the two forms says."""
    told = {name: value for name, value in message.items() if value is not None}
    told["content"] = [
        {name: value for name, value in block.items() if name not in {"citations", "caller", "parsed_output"}}
        for block in message["content"]
    ]
    told["usage"] = {name: value for name, value in message["usage"].items() if value is not None}
    return told


def kinds_of(found: list[dict[str, Any]]) -> list[str]:
    """The events in short: what begins is named, each block's deltas are joined."""
    told = []
    for event in found:
        match event["type"]:
            case "content_block_start":
                told.append(event["content_block"].get("id") or event["content_block"]["type"])
            case "content_block_delta":
                delta = event["delta"]
                told.append(delta.get("text") or delta.get("thinking") or delta.get("partial_json"))
    return told


@pytest.mark.parametrize("name", ["text", "tools"])
def test_a_stream_says_the_same_as_the_plain_answer(name: str) -> None:
    decoder = MESSAGES.open_stream(the_call())

    found = [d for event in events(golden(f"openai/{name}.sse")) for d in decoder.feed(event)]
    found += decoder.end()
    answer = MESSAGES.decode(golden(f"openai/{name}.json"), the_call())

    streamed_message = put_together([orjson.loads(each) for each in found])
    assert comparable(streamed_message) == comparable(orjson.loads(answer.body))
    assert decoder.usage == answer.usage
    assert decoder.finish_reason == answer.finish_reason


def test_a_completion_becomes_a_message() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":["ü"]}'}}

    assert plain(
        {"role": "assistant", "content": "Wait.", "reasoning_content": "Hm.", "tool_calls": [call]},
        finish="tool_calls",
    ) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "gpt-4o-mini-x",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "Wait."},
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": ["ü"]}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": COUNTS,
    }


def test_the_ledger_reads_what_the_provider_counted() -> None:
    completion = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": USAGE}

    usage = MESSAGES.decode(orjson.dumps(completion), the_call()).usage

    assert usage == Usage(100, 9, 60, 4, cache_write_tokens=10)


@pytest.mark.parametrize(
    ("finish", "stop"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("something_new", "end_turn"),
        (None, "end_turn"),
    ],
)
def test_reasons_to_stop_are_translated_plain_and_streamed(finish: str | None, stop: str) -> None:
    assert plain({"content": "a"}, finish=finish)["stop_reason"] == stop
    assert streamed({"content": "a"}, finish=finish)[-2]["delta"]["stop_reason"] == stop


def test_a_call_ended_by_stop_is_still_a_call() -> None:
    """Some servers say `stop` after the call that a named tool_choice forced."""
    call = opened(0, "call_1", "{}")

    assert plain({"content": None, "tool_calls": [call]})["stop_reason"] == "tool_use"
    assert streamed(calls(call))[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_refusal_is_text_and_a_reason() -> None:
    answer = plain({"content": None, "refusal": "I will not."})
    found = put_together(streamed({"refusal": "I will "}, {"refusal": "not."}))

    assert answer["content"] == [{"type": "text", "text": "I will not."}]
    assert answer["stop_reason"] == found["stop_reason"] == "refusal"
    assert comparable(found) == comparable(answer)


def test_an_answer_of_nothing_has_no_blocks() -> None:
    assert plain({"content": ""})["content"] == []
    assert put_together(streamed({"role": "assistant", "content": ""}))["content"] == []


def test_ids_of_calls_are_made_such_as_anthropic_takes_and_missing_ones_are_made_up() -> None:
    told = plain(
        {"tool_calls": [opened(0, "functions.look:0", "{}"), opened(1, "", "{}")]}, finish="tool_calls"
    )

    assert [block["id"] for block in told["content"]] == ["functions_look_0", "toolu_unknown_1"]


def test_a_message_without_a_provider_id_is_named_after_its_job() -> None:
    completion = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}

    message = orjson.loads(MESSAGES.decode(orjson.dumps(completion), the_call()).body)

    assert message["id"] == "msg_unknown"
    assert message["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_counts_that_nobody_gave_are_estimated(usage: Any) -> None:
    told = plain({"content": "y" * 8}, usage=usage)["usage"]

    assert told["output_tokens"] == 2
    assert told["input_tokens"] >= 10
    assert put_together(streamed({"content": "y" * 8}, usage=usage))["usage"] == told


def test_usage_at_the_start_is_an_estimate_and_at_the_end_the_count() -> None:
    found = streamed({"content": "a"})

    assert found[0]["message"]["usage"]["input_tokens"] >= 10
    assert found[-2]["usage"] == COUNTS


@pytest.mark.parametrize("arguments", ["{", "3", "null", "[]"])
def test_arguments_that_are_no_object_are_an_error_and_never_an_empty_call(arguments: str) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        plain({"tool_calls": [opened(0, "a", arguments)]}, finish="tool_calls")
    with pytest.raises(ProviderAnswerInvalid):
        streamed(calls(opened(0, "a", arguments)), finish="tool_calls")


def test_a_call_that_the_limit_cut_off_is_no_call() -> None:
    told = plain({"content": "Wait.", "tool_calls": [opened(0, "a", '{"x":')]}, finish="length")
    found = streamed(calls(opened(0, "a", '{"x":')), finish="length")

    assert [block["type"] for block in told["content"]] == ["text"]
    assert told["stop_reason"] == found[-2]["delta"]["stop_reason"] == "max_tokens"


def test_a_call_without_arguments_has_an_empty_input() -> None:
    for silent in (
        opened(0, "a"),
        opened(0, "a", " "),
        {"index": 0, "id": "a", "function": {"name": "look"}},
    ):
        [block] = put_together(streamed(calls(silent), finish="tool_calls"))["content"]
        assert block["input"] == {}


def test_each_piece_begins_when_the_one_before_it_ends() -> None:
    found = streamed(
        {"reasoning": "Hm"},
        {"reasoning_content": "."},
        {"content": "I "},
        {"content": "look."},
        calls(opened(0, "a", '{"x"')),
        calls(more(0, ":1}")),
        calls(opened(1, "b", "{}")),
        finish="tool_calls",
    )

    check_order(found)
    assert kinds_of(found) == [
        "thinking", "Hm", ".", "text", "I ", "look.", "a", '{"x"', ":1}", "b", "{}",
    ]  # fmt: skip


def test_fragments_of_parallel_calls_may_come_mixed() -> None:
    found = streamed(
        calls(opened(0, "a"), opened(1, "b")),
        calls(more(1, '{"y":')),
        calls(more(0, '{"x":')),
        calls(more(1, "2}"), more(0, "1}")),
        finish="tool_calls",
    )

    check_order(found)
    assert kinds_of(found) == ["a", '{"x":', "1}", "b", '{"y":2}']


def test_whole_calls_with_one_index_are_told_apart_by_their_ids() -> None:
    found = put_together(
        streamed(calls(opened(0, "a", '{"x":1}')), calls(opened(0, "b", '{"y":2}')), finish="tool_calls")
    )

    assert [(block["id"], block["input"]) for block in found["content"]] == [("a", {"x": 1}), ("b", {"y": 2})]


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    first, second = opened(0, "a", '{"x":1}'), opened(0, "b", '{"y":2}')
    del first["index"], second["index"]

    found = put_together(streamed(calls(first, second), finish="tool_calls"))

    assert [(block["id"], block["input"]) for block in found["content"]] == [("a", {"x": 1}), ("b", {"y": 2})]


def test_text_behind_a_call_waits_until_the_call_is_whole() -> None:
    found = streamed(
        calls(opened(0, "a", '{"x":')), {"content": "So"}, calls(more(0, "1}")), {"content": "."},
        finish="tool_calls",
    )  # fmt: skip

    check_order(found)
    assert kinds_of(found) == ["a", '{"x":', "1}", "text", "So", "."]


def test_a_call_without_a_name_is_no_call() -> None:
    with pytest.raises(ProviderAnswerInvalid):
        streamed(calls({"index": 0, "id": "a", "function": {"arguments": "{}"}}), finish="tool_calls")


def test_only_the_first_choice_is_a_message() -> None:
    decoder = MESSAGES.open_stream(the_call())

    found = decoder.feed(chunk({"content": "a"}, index=1))

    assert [orjson.loads(each)["type"] for each in found] == ["message_start"]


def test_an_error_inside_the_stream_ends_it() -> None:
    decoder: StreamDecoder = MESSAGES.open_stream(the_call())

    with pytest.raises(ProviderError):
        decoded(decoder, golden("openai/error_in_stream.sse"))

    assert not decoder.finished


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": 3},
        {"tool_calls": ["a", None]},
        {"tool_calls": [{"index": [], "function": 3, "id": {}}]},
        {"content": {"a": 1}, "reasoning": [1]},
    ],
    ids=str,
)
def test_strange_deltas_never_break_the_gateway(delta: dict[str, Any]) -> None:
    decoder = MESSAGES.open_stream(the_call())
    decoder.feed(chunk(delta, index={"a": 1}))
    decoder.feed(chunk(delta))

    try:
        decoder.end()
    except ProviderAnswerInvalid as refusal:
        assert "without saying which" in refusal.message  # noqa: PT017 - either way is right


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
inputs = st.lists(st.dictionaries(st.text(max_size=8), json_values, max_size=3), max_size=4)


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(
    thinking=st.text(max_size=30),
    text=st.text(max_size=30),
    arguments=inputs,
    cuts=st.lists(st.integers(0, 1000), max_size=4),
    finish=st.sampled_from(["stop", "tool_calls", "content_filter"]),
    data=st.data(),
)
def test_any_completion_decodes_the_same_plain_and_streamed(
    thinking: str,
    text: str,
    arguments: list[dict[str, Any]],
    cuts: list[int],
    finish: str,
    data: st.DataObject,
) -> None:
    """The fragments of one call keep their order; those of several come in any."""
    written = [orjson.dumps(each).decode() if each else "" for each in arguments]
    answer = plain(
        {
            "content": text or None,
            "reasoning_content": thinking,
            "tool_calls": [opened(i, f"call_{i}", said) for i, said in enumerate(written)],
        },
        finish=finish,
    )
    waiting = [[more(i, piece) for piece in pieces(said, cuts)] for i, said in enumerate(written)]
    in_turn = [i for i, each in enumerate(waiting) for _ in each]
    mixed = data.draw(st.just(in_turn) | st.permutations(in_turn))
    deltas = [{"reasoning_content": piece} for piece in pieces(thinking, cuts)]
    deltas += [{"content": piece} for piece in pieces(text, cuts)]
    deltas += [calls(opened(i, f"call_{i}")) for i in range(len(written))]
    deltas += [calls(waiting[i].pop(0)) for i in mixed]

    found = put_together(streamed(*deltas, finish=finish))

    assert comparable(found) == comparable(answer)
