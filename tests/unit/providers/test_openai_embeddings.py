from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind, Target
from shared.domain.usage import Usage
from shared.errors import InvalidRequest, ProviderAnswerInvalid, ProviderRejected
from shared.providers.dialect import Answer
from shared.providers.dialects.openai_embeddings import count_inputs, openai_embeddings
from tests.unit.providers.support import ANTHROPIC, CLAUDE, OPENAI, a_call, golden

SMALL = Target("openai", "text-embedding-3-small")
NUMBERS = [[0.25, -0.5, 1.0], [0.0, 0.125, -2.0]]
BASE64 = ["AACAPgAAAL8AAIA/", "AAAAAAAAAD4AAADA"]


def request(**fields: Any) -> bytes:
    return orjson.dumps({"model": SMALL.model, "input": ["one", "two"], **fields})


def decoded(body: bytes, **fields: Any) -> Answer:
    return openai_embeddings.decode(body, a_call(OPENAI, SMALL, body=request(**fields)))


def vectors_of(answer: Answer) -> list[Any]:
    document = orjson.loads(answer.body)
    assert document["object"] == "list"
    assert [item["index"] for item in document["data"]] == list(range(len(document["data"])))
    assert {item["object"] for item in document["data"]} == {"embedding"}
    return [item["embedding"] for item in document["data"]]


def answer_of(*data: Any, **fields: Any) -> bytes:
    return orjson.dumps({"object": "list", "data": list(data), "model": "m", **fields})


def test_a_request_goes_out_with_every_parameter() -> None:
    body = request(dimensions=256, encoding_format="base64", user="someone")

    sent = openai_embeddings.encode(a_call(OPENAI, SMALL, body=body))

    assert sent.path == "/embeddings"
    assert orjson.loads(sent.body) == orjson.loads(body)


def test_what_the_profile_says_of_parameters_is_done() -> None:
    profile = replace(
        OPENAI,
        drops=frozenset({"encoding_format"}),
        renames={"dimensions": "dimension"},
        refuses=frozenset({"user"}),
        model_name=str.upper,
    )
    body = request(encoding_format="base64", dimensions=8)

    sent = openai_embeddings.encode(a_call(profile, SMALL, body=body))

    assert orjson.loads(sent.body) == {
        "model": "TEXT-EMBEDDING-3-SMALL",
        "input": ["one", "two"],
        "dimension": 8,
    }
    with pytest.raises(InvalidRequest, match="user"):
        openai_embeddings.encode(a_call(profile, SMALL, body=request(user="someone")))


@pytest.mark.parametrize("recorded", ["openai/embeddings.json", "openai/embeddings.base64.json"])
@pytest.mark.parametrize(("asked", "expected"), [("float", NUMBERS), ("base64", BASE64), (None, NUMBERS)])
def test_vectors_come_in_the_encoding_asked_for_whichever_the_provider_speaks(
    recorded: str, asked: str | None, expected: list[Any]
) -> None:
    answer = decoded(golden(recorded), encoding_format=asked)

    assert vectors_of(answer) == expected
    assert answer.usage == Usage(prompt_tokens=5)
    assert orjson.loads(answer.body)["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert orjson.loads(answer.body)["model"] == SMALL.model


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    body = answer_of({"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]})

    assert vectors_of(decoded(body)) == [[1], [2]]


def test_an_answer_without_indexes_is_in_order() -> None:
    assert vectors_of(decoded(answer_of({"embedding": [1]}, {"embedding": [2]}))) == [[1], [2]]


def test_usage_may_be_a_total_alone_or_missing() -> None:
    data = ({"embedding": [1]}, {"embedding": [2]})

    assert decoded(answer_of(*data, usage={"total_tokens": 7})).usage == Usage(prompt_tokens=7)
    assert decoded(answer_of(*data)).usage is None


@pytest.mark.parametrize(
    ("value", "count"),
    [("text", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2)],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_inputs_are_counted_in_each_form(value: Any, count: int) -> None:
    assert count_inputs(value) == count
    data = [{"embedding": [1.5]}] * count
    assert len(vectors_of(decoded(answer_of(*data), input=value))) == count


GOOD = {"index": 0, "embedding": [1.0]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        b"{}",
        answer_of(GOOD),
        answer_of(GOOD, {"index": 0, "embedding": [1.0]}),
        answer_of(GOOD, {"index": 2, "embedding": [1.0]}),
        answer_of(GOOD, {"index": [], "embedding": [1.0]}),
        answer_of(GOOD, {"index": 1, "embedding": []}),
        answer_of(GOOD, {"index": 1, "embedding": None}),
        answer_of(GOOD, {"index": 1, "embedding": ["1"]}),
        answer_of(GOOD, {"index": 1, "embedding": [True]}),
        answer_of(GOOD, {"index": 1, "embedding": [[1.0]]}),
        answer_of(GOOD, {"index": 1, "embedding": "no base64!"}),
        answer_of(GOOD, {"index": 1, "embedding": "AACA"}),
        answer_of(GOOD, {"index": 1, "embedding": ""}),
        answer_of(GOOD, {"index": 1, "embedding": "AADAfw=="}),
        answer_of(GOOD, {"index": 1, "embedding": {"0": 1.0}}),
        answer_of(GOOD, "two"),
        answer_of(GOOD, GOOD, GOOD),
    ],
    ids=repr,
)
@pytest.mark.parametrize("asked", ["float", "base64"])
def test_what_is_no_vector_for_each_input_is_no_answer(body: bytes, asked: str) -> None:
    with pytest.raises(ProviderAnswerInvalid):
        decoded(body, encoding_format=asked)


def test_a_number_beyond_float32_is_no_base64() -> None:
    with pytest.raises(ProviderAnswerInvalid):
        decoded(answer_of(GOOD, {"index": 1, "embedding": [1e300]}), encoding_format="base64")


def test_an_error_in_a_200_is_that_error() -> None:
    with pytest.raises(ProviderRejected, match="too long"):
        decoded(b'{"error":{"message":"too long","type":"invalid_request_error"}}')


def test_there_are_no_streams_of_embeddings() -> None:
    with pytest.raises(InvalidRequest, match="stream"):
        openai_embeddings.open_stream(a_call(OPENAI, SMALL))


def test_a_provider_without_embeddings_is_not_asked() -> None:
    assert OPENAI.serves(JobKind.EMBEDDINGS)
    assert not ANTHROPIC.serves(JobKind.EMBEDDINGS)
    with pytest.raises(InvalidRequest, match="embeddings"):
        ANTHROPIC.codec(JobKind.EMBEDDINGS).encode(a_call(ANTHROPIC, CLAUDE))
