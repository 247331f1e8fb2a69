"""A chat answer as a Response: whole, and in the events of a stream."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from shared.domain.job import JobKind
from shared.errors import ProviderAnswerInvalid
from shared.ids import JobId
from shared.providers.dialect import Call
from shared.providers.sse_reader import SseEvent
from tests.unit.providers.support import GPT, OPENAI, decoded, events, golden

Fields = dict[str, Any]

JOB = JobId("job_019ae6b0d7c8" + "a" * 20)
RESPONSE_ID = "resp_019ae6b0d7c8" + "a" * 20
CODEC = OPENAI.codec(JobKind.RESPONSES)
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def a_call(request: Fields | None = None, *, stream: bool = False) -> Call:
    body = orjson.dumps({"model": "gpt-4o-mini", "input": "Hello", **(request or {})})
    return Call(body, GPT, OPENAI, stream=stream, job_id=JOB)


def whole(message: Fields, *, finish: str = "stop", request: Fields | None = None, **fields: Any) -> Fields:
    completion = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-mini-2024",
        "choices": [
            {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **fields}
        ],
        "usage": USAGE,
    }
    answer: Fields = orjson.loads(CODEC.decode(orjson.dumps(completion), a_call(request)).body)
    return answer


def streamed(*deltas: Fields, finish: str | None = "stop", request: Fields | None = None) -> list[Fields]:
    choices = [{"index": 0, "delta": delta} for delta in deltas]
    if finish is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks: list[Fields] = [{"model": "gpt-4o-mini-2024", "choices": [choice]} for choice in choices]
    chunks.append({"model": "gpt-4o-mini-2024", "choices": [], "usage": USAGE})
    decoder = CODEC.open_stream(a_call(request, stream=True))
    told = [document for chunk in chunks for document in decoder.feed(SseEvent("", orjson.dumps(chunk)))]
    return [orjson.loads(document) for document in [*told, *decoder.end()]]


def test_a_whole_answer_is_a_whole_response() -> None:
    response = whole({"content": "Yes."}, request={"instructions": "Be brief.", "metadata": {"a": "b"}})

    Response.model_validate(response)
    assert response["id"] == RESPONSE_ID
    assert response["created_at"] == int("019ae6b0d7c8", 16) // 1000
    assert response["status"] == "completed"
    assert response["model"] == "gpt-4o-mini-2024"
    assert response["instructions"] == "Be brief."
    assert response["metadata"] == {"a": "b"}
    (message,) = response["output"]
    assert message["content"] == [{"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": []}]
    assert response["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 13,
    }


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_how_an_answer_ended_is_the_status(finish: str, status: str, reason: Fields | None) -> None:
    response = whole({"content": "Yes"}, finish=finish)
    last = streamed({"content": "Yes"}, finish=finish)[-1]

    assert (response["status"], response["incomplete_details"]) == (status, reason)
    assert response["output"][0]["status"] == status
    assert last["type"] == f"response.{status}"


def test_an_answer_of_nothing_is_an_empty_message_unless_it_was_cut() -> None:
    empty = whole({"content": ""})
    cut = whole({"content": ""}, finish="length")

    assert empty["output"][0]["content"][0]["text"] == ""
    assert cut["output"] == []
    assert streamed(finish="stop")[-1]["response"] == empty
    assert streamed(finish="length")[-1]["response"] == cut


def test_log_probabilities_come_with_their_text() -> None:
    chat = {"content": [{"token": "Yes", "logprob": -0.1, "bytes": None,
                         "top_logprobs": [{"token": "No", "logprob": -2.0}]}]}  # fmt: skip
    told = [
        {"token": "Yes", "logprob": -0.1, "bytes": [],
         "top_logprobs": [{"token": "No", "logprob": -2.0, "bytes": []}]}
    ]  # fmt: skip

    response = whole({"content": "Yes"}, logprobs=chat)

    Response.model_validate(response)
    assert response["output"][0]["content"][0]["logprobs"] == told


def test_a_recorded_stream_ends_in_what_its_plain_answer_says() -> None:
    call = a_call(stream=True)
    decoder = CODEC.open_stream(call)
    told = decoded(decoder, golden("openai/tools.sse")) + [orjson.loads(d) for d in decoder.end()]
    plain = orjson.loads(CODEC.decode(golden("openai/tools.json"), call).body)

    assert told[-1]["response"] == plain


def test_reasoning_is_read_under_either_name() -> None:
    for name in ("reasoning_content", "reasoning"):
        thought, message = whole({name: "Hm.", "content": "Yes."})["output"]
        assert thought["summary"] == [{"type": "summary_text", "text": "Hm."}]
        assert message["type"] == "message"


def test_text_after_a_call_is_a_message_of_its_own() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": "{}"}}
    response = streamed({"content": "One"}, {"tool_calls": [call]}, {"content": "Two"})[-1]["response"]

    assert [item["type"] for item in response["output"]] == ["message", "function_call", "message"]
    assert len({item["id"] for item in response["output"]}) == 3


def test_calls_that_all_count_zero_are_told_apart_by_their_ids() -> None:
    def call(call_id: str, arguments: str) -> Fields:
        fragment = {"index": 0, "id": call_id, "function": {"name": "look", "arguments": arguments}}
        return {"tool_calls": [fragment]}

    output = streamed(call("a", '{"n":1'), call("a", "}"), call("b", "{}"))[-1]["response"]["output"]

    assert [(item["call_id"], item["arguments"]) for item in output] == [("a", '{"n":1}'), ("b", "{}")]


def test_a_fragment_of_a_call_that_had_ended_is_no_answer() -> None:
    def call(index: int, **more: Any) -> Fields:
        return {"tool_calls": [{"index": index, "function": {"arguments": "{"}, **more}]}

    with pytest.raises(ProviderAnswerInvalid):
        streamed(call(0, id="a"), call(1, id="b"), call(0))


# ---- whatever is answered, and wherever it is cut

texts = st.text(min_size=1, max_size=12)
requests = st.fixed_dictionaries(
    {},
    optional={
        "instructions": texts,
        "temperature": st.floats(0, 2),
        "store": st.booleans(),
        "metadata": st.dictionaries(texts, texts, max_size=2),
        "text": st.sampled_from([{"format": {"type": "json_object"}}, {"verbosity": "low"}]),
        "tools": st.just([{"type": "function", "name": "look"}]),
        "tool_choice": st.sampled_from(["auto", {"type": "function", "name": "look"}]),
        "reasoning": st.just({"effort": "low"}),
    },
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "reasoning_content": texts,
        "content": texts,
        "refusal": texts,
        "tool_calls": st.lists(st.tuples(texts, st.text(max_size=20)), min_size=1, max_size=3),
    },
)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in pairwise([0, *places, len(text)])]


@st.composite
def told_in_pieces(draw: st.DrawFn, answer: Fields) -> list[Fields]:
    deltas: list[Fields] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "content", "refusal"):
        deltas += [{name: piece} for piece in draw(cut(answer.get(name, "")))]
    for index, (name, arguments) in enumerate(answer.get("tool_calls", ())):
        first = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name}}
        deltas.append({"tool_calls": [first]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in draw(cut(arguments))
        ]
    return deltas


def as_message(answer: Fields) -> Fields:
    calls = [
        {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(answer.get("tool_calls", ()))
    ]
    return {"content": None, **answer, "tool_calls": calls}


@settings(deadline=None)
@given(st.data(), answers, requests, st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
def test_a_stream_cut_anywhere_ends_in_what_the_plain_answer_says(
    data: st.DataObject, answer: Fields, request: Fields, finish: str
) -> None:
    told = streamed(*data.draw(told_in_pieces(answer)), finish=finish, request=request)

    assert told[-1]["response"] == whole(as_message(answer), finish=finish, request=request)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    for event in told:
        assert next(iter(event)) == "type"
        EVENT.validate_python(event)


@settings(deadline=None)
@given(st.data(), answers)
def test_items_come_one_after_the_other_and_their_fragments_make_the_whole(
    data: st.DataObject, answer: Fields
) -> None:
    told = streamed(*data.draw(told_in_pieces(answer)))
    output = told[-1]["response"]["output"]

    assert [event["type"] for event in told][:2] == ["response.created", "response.in_progress"]
    for index, item in enumerate(output):
        own = [event for event in told if event.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added"
        assert own[-1]["type"] == "response.output_item.done"
        assert own[-1]["item"] == item
        assert own == told[told.index(own[0]) : told.index(own[-1]) + 1]
        assert {event.get("item_id", item["id"]) for event in own} == {item["id"]}
        fragments = "".join(event["delta"] for event in own if event["type"].endswith(".delta"))
        assert fragments == said_by(item)


def said_by(item: Fields) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    parts = item["content"] if item["type"] == "message" else item["summary"]
    return "".join(part.get("text", part.get("refusal")) for part in parts)


@settings(deadline=None)
@given(answers)
def test_what_was_answered_goes_back_as_it_came(answer: Fields) -> None:
    output = whole(as_message(answer))["output"]
    body = orjson.dumps({"input": [{"role": "user", "content": "Hello"}, *output]})

    messages = orjson.loads(CODEC.encode(Call(body, GPT, OPENAI)).body)["messages"]

    # Reasoning alone is nothing that OpenAI's chat could be told again.
    message = messages[1] if len(messages) > 1 else {}
    assert bool(message) is (answer.keys() != {"reasoning_content"})
    assert (message.get("content") or "") == answer.get("content", "")
    assert message.get("refusal") == answer.get("refusal")
    assert [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
    ] == answer.get("tool_calls", [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["index", "id", "function", "name", "arguments", "text", "token", "bytes"])
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
odd_deltas = st.dictionaries(
    st.sampled_from(["content", "reasoning", "reasoning_content", "refusal", "tool_calls", "role"]),
    json_values,
    max_size=4,
)
odd_choices = st.fixed_dictionaries(
    {"delta": odd_deltas},
    optional={
        "index": json_values,
        "logprobs": json_values | st.fixed_dictionaries({"content": json_values}),
        "finish_reason": json_values,
    },
)
odd_chunks = st.fixed_dictionaries(
    {"choices": st.lists(odd_choices, max_size=2)},
    optional={"model": json_values, "usage": json_values, "service_tier": json_values},
)


@settings(deadline=None)
@given(st.lists(odd_chunks, max_size=4))
def test_an_odd_stream_is_read_or_refused(chunks: list[Fields]) -> None:
    decoder = CODEC.open_stream(a_call(stream=True))
    told: list[bytes] = []
    try:
        for event in events(b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks)):
            told += decoder.feed(event)
        told += decoder.end()
    except ProviderAnswerInvalid:
        return

    assert orjson.loads(told[-1])["response"]["object"] == "response"


@settings(deadline=None)
@given(odd_deltas, json_values, json_values)
def test_an_odd_answer_is_read_or_refused(message: Fields, logprobs: object, usage: object) -> None:
    completion = {"choices": [{"message": message, "logprobs": logprobs}], "usage": usage}
    try:
        answer = CODEC.decode(orjson.dumps(completion), a_call())
    except ProviderAnswerInvalid:
        return

    assert orjson.loads(answer.body)["object"] == "response"
