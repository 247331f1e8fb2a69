"""`POST /v1/completions`, through the official OpenAI client."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionStreamOptionsParam

from tests.contract.openai_sdk.conversation import ANTHROPIC, BOTH

pytestmark = pytest.mark.xdist_group("contract")

NATIVE = "library/any"


def test_a_model_made_for_completions_continues_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NATIVE, prompt="Once upon a time", max_tokens=16)

    assert answer.object == "text_completion"
    assert answer.choices[0].text == "Once upon a time"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5


@pytest.mark.parametrize("prompt", [["one", "two"], [1, 2, 3], [[1, 2], [3]]], ids=str)
def test_every_form_of_a_prompt_reaches_such_a_model(client: openai.OpenAI, prompt: Any) -> None:
    answer = client.completions.create(model=NATIVE, prompt=prompt, suffix="!", echo=True, logprobs=1)

    assert answer.choices[0].text == str(prompt)


@pytest.mark.parametrize("model", BOTH)
def test_a_model_made_for_chat_is_asked_through_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt="Hello", max_tokens=64)

    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "You said: Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6


@pytest.mark.parametrize("model", [NATIVE, *BOTH])
@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI, model: str, include_usage: bool) -> None:
    options: ChatCompletionStreamOptionsParam = {"include_usage": include_usage}

    stream = client.completions.create(
        model=model,
        prompt="a b c",
        stream=True,
        stream_options=options,
    )
    chunks = list(stream)

    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.text for choice in choices).replace(" ", "").endswith("abc")
    assert len(choices) > 1
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    told = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(told) == (1 if include_usage else 0)


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize(
    "extra",
    [
        {"suffix": "!"},
        {"echo": True},
        {"best_of": 2},
        {"logprobs": 1},
        {"prompt": ["a", "b"]},
        {"prompt": [1]},
    ],
    ids=str,
)
def test_what_a_chat_cannot_do_is_refused_by_name(
    client: openai.OpenAI, model: str, extra: dict[str, Any]
) -> None:
    (param,) = extra
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": model, "prompt": "Hello", **extra})

    assert refused.value.param == param
    assert refused.value.code == "unsupported_parameter"


def test_such_a_parameter_can_be_left_out_by_wish(http: httpx.Client) -> None:
    response = http.post(
        "/v1/completions",
        json={"model": ANTHROPIC, "prompt": "Hello", "best_of": 2},
        headers={"x-headrace-drop-params": "true"},
    )

    assert response.status_code == 200
    assert response.headers["x-headrace-dropped-params"] == "best_of"


def test_an_answer_that_is_none_and_a_refusal_have_their_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as broken:
        client.completions.create(model="library/garbage", prompt="Hello")
    with pytest.raises(openai.BadRequestError, match="not with me"):
        client.completions.create(model="library/refuse", prompt="Hello")

    assert broken.value.code == "invalid_response"
