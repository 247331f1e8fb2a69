from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind, Target
from shared.domain.usage import Usage
from shared.errors import InvalidRequest, ProviderAnswerInvalid, ProviderUnavailable
from shared.providers.dialect import Call, StreamDecoder
from shared.providers.profile import ProviderProfile
from tests.unit.providers.support import ANTHROPIC, CLAUDE, GPT, OPENAI, VLLM, a_call, decoded, events, golden

INSTRUCT = Target("openai", "gpt-3.5-turbo-instruct")
LLAMA = Target("vllm", "meta-llama/Llama-3.1-8B")
THROUGH_CHAT = [(OPENAI, GPT), (ANTHROPIC, CLAUDE)]


def call(profile: ProviderProfile, target: Target, *, stream: bool = False, **fields: Any) -> Call:
    body = orjson.dumps({"model": target.model, "prompt": "Once upon a time", **fields})
    return a_call(profile, target, body=body, stream=stream, include_usage=True)


def sent(asked: Call) -> tuple[str, dict[str, Any]]:
    request = asked.profile.codec(JobKind.COMPLETION).encode(asked)
    return request.path, orjson.loads(request.body)


def opened(asked: Call) -> StreamDecoder:
    return asked.profile.codec(JobKind.COMPLETION).open_stream(asked)


@pytest.mark.parametrize(
    ("profile", "target"), [(OPENAI, INSTRUCT), (VLLM, LLAMA), (VLLM, Target("vllm", "gpt-4o-mini"))], ids=str
)
def test_a_model_not_known_to_chat_is_asked_natively(profile: ProviderProfile, target: Target) -> None:
    fields: dict[str, Any] = {
        "suffix": "The end.",
        "echo": True,
        "best_of": 3,
        "logprobs": 2,
        "prompt": [[1, 2], [3]],
    }

    path, body = sent(call(profile, target, **fields))

    assert path == "/completions"
    assert body == {"model": target.model, **fields}


def test_a_native_stream_asks_for_usage() -> None:
    _, body = sent(call(OPENAI, INSTRUCT, stream=True))

    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_a_native_answer_is_passed_on_as_it_came() -> None:
    body = golden("openai/completion.json")

    answer = OPENAI.codec(JobKind.COMPLETION).decode(body, call(OPENAI, INSTRUCT))

    assert answer.body == body
    assert answer.usage == Usage(4, 6)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"text":1}]}',
        b'{"choices":["text"]}',
    ],
    ids=repr,
)
def test_what_has_no_text_is_no_completion(body: bytes) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        OPENAI.codec(JobKind.COMPLETION).decode(body, call(OPENAI, INSTRUCT))


def test_a_native_stream_is_passed_on_and_counted() -> None:
    stream = opened(call(OPENAI, INSTRUCT, stream=True))

    chunks = decoded(stream, golden("openai/completion.sse"))

    assert (
        "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == ", there was a queue."
    )
    assert chunks[-1]["usage"]["total_tokens"] == 10
    assert stream.finished
    assert stream.finish_reason == "stop"
    assert stream.usage == Usage(4, 6)
    assert stream.text_chars == len(", there was a queue.")


def test_an_error_in_a_native_stream_is_raised() -> None:
    stream = opened(call(OPENAI, INSTRUCT, stream=True))

    with pytest.raises(ProviderUnavailable):
        decoded(stream, b'data: {"error":{"message":"no","type":"server_error"}}\n\n')


@pytest.mark.parametrize(("profile", "target"), THROUGH_CHAT, ids=str)
def test_the_prompt_is_what_a_user_says_to_a_chat_model(profile: ProviderProfile, target: Target) -> None:
    nothing: dict[str, Any] = {"suffix": None, "echo": False, "best_of": 1, "logprobs": None}

    path, body = sent(call(profile, target, prompt=["Hello"], max_tokens=9, temperature=0.5, **nothing))

    assert path in {"/chat/completions", "/v1/messages"}
    ((role, content),) = ((message["role"], message["content"]) for message in body["messages"])
    assert role == "user"
    assert content in ("Hello", [{"type": "text", "text": "Hello"}])
    assert body["max_tokens"] == 9
    assert body["temperature"] == 0.5
    assert not {"prompt", *nothing} & body.keys()


@pytest.mark.parametrize(("profile", "target"), THROUGH_CHAT, ids=str)
@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("suffix", "The end."),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("messages", [{"role": "user", "content": "Hello"}]),
        ("echo", True),
        ("best_of", 2),
        ("logprobs", 0),
        ("prompt", ["one", "two"]),
        ("prompt", [1, 2, 3]),
        ("prompt", [[1, 2, 3]]),
    ],
    ids=str,
)
def test_what_a_chat_has_no_word_for_is_refused_by_name(
    profile: ProviderProfile, target: Target, param: str, value: Any
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sent(call(profile, target, **{param: value}))

    assert refused.value.status == 400
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("profile", "target", "recorded"),
    [(OPENAI, GPT, "openai/text.json"), (ANTHROPIC, CLAUDE, "anthropic/text.json")],
    ids=str,
)
def test_a_chat_is_answered_as_a_completion(profile: ProviderProfile, target: Target, recorded: str) -> None:
    body = golden(recorded)
    chat = profile.codec(JobKind.CHAT).decode(body, a_call(profile, target))

    answer = profile.codec(JobKind.COMPLETION).decode(body, call(profile, target))

    completion, said = orjson.loads(answer.body), orjson.loads(chat.body)
    assert completion["object"] == "text_completion"
    assert completion["id"].startswith("cmpl-")
    assert completion["model"] == said["model"]
    assert completion["usage"] == said["usage"]
    assert completion["choices"] == [
        {
            "text": said["choices"][0]["message"]["content"],
            "index": 0,
            "logprobs": None,
            "finish_reason": said["choices"][0]["finish_reason"],
        }
    ]
    assert (answer.usage, answer.finish_reason) == (chat.usage, chat.finish_reason)


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize(
    ("profile", "target", "recorded"),
    [(OPENAI, GPT, "openai/text.sse"), (ANTHROPIC, CLAUDE, "anthropic/text.sse")],
    ids=str,
)
def test_a_chat_is_streamed_as_a_completion(
    profile: ProviderProfile, target: Target, recorded: str, include_usage: bool
) -> None:
    asked = a_call(profile, target, body=call(profile, target).body, stream=True, include_usage=include_usage)
    stream, chat = opened(asked), profile.codec(JobKind.CHAT).open_stream(asked)

    chunks = [orjson.loads(each) for event in events(golden(recorded)) for each in stream.feed(event)]
    chunks += [orjson.loads(each) for each in stream.end()]

    said = decoded(chat, golden(recorded))
    deltas = [choice["delta"].get("content") or "" for chunk in said for choice in chunk["choices"]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == "".join(deltas)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert len(told) == (1 if include_usage else 0)
    assert all(("usage" in chunk) is include_usage for chunk in chunks)
    assert stream.finished
    assert stream.usage == chat.usage
    assert stream.text_chars == chat.text_chars > 0
