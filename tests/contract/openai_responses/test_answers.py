"""Plain responses, through the official OpenAI client."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseOutputMessage, ResponseReasoningItem
from pydantic import BaseModel

from tests.contract.openai_responses.conversation import ANTHROPIC, BOTH, OPENAI, chat_answer, script

pytestmark = pytest.mark.xdist_group("contract")

PIXEL = "data:image/png;base64,iVBORw0KGgo="


class Mill(BaseModel):
    river: str
    wheels: int


@pytest.mark.parametrize("model", BOTH)
def test_a_plain_response_is_whole(client: openai.OpenAI, model: str) -> None:
    answer = client.responses.create(
        model=model,
        input="Hello",
        instructions="Be brief.",
        temperature=0.5,
        max_output_tokens=50,
        metadata={"mill": "upper"},
    )

    Response.model_validate(answer.model_dump(warnings="error"), strict=True)
    assert answer.output_text == "You said: Hello"
    assert answer.status == "completed"
    assert answer.id.startswith("resp_")
    assert abs(answer.created_at - time.time()) < 60
    assert answer.model == model.rpartition("/")[2]
    assert answer.instructions == "Be brief."
    assert (answer.temperature, answer.max_output_tokens) == (0.5, 50)
    assert answer.metadata == {"mill": "upper"}
    assert answer.error is None
    assert answer.incomplete_details is None
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (4, 4, 8)


async def test_the_asynchronous_client_gets_the_same(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.responses.create(model=OPENAI, input="Hello")

    assert answer.output_text == "You said: Hello"


@pytest.mark.parametrize("model", BOTH)
def test_an_answer_is_parsed_into_the_callers_own_class(client: openai.OpenAI, model: str) -> None:
    said = '{"river":"Rhine 🌊","wheels":3}'

    answer = client.responses.parse(model=model, input=script(text=said), text_format=Mill)

    assert answer.output_parsed == Mill(river="Rhine 🌊", wheels=3)
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.type == "json_schema"


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_is_incomplete_and_says_why(
    client: openai.OpenAI, model: str, finish: str, reason: str
) -> None:
    answer = client.responses.create(model=model, input=script("and so on", finish_reason=finish))

    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == reason
    assert answer.output_text == "You said: and so on"


def test_reasoning_and_refusals_have_their_own_places(client: openai.OpenAI) -> None:
    cue = chat_answer({"reasoning_content": "Hm.", "content": None, "refusal": "I will not."})

    answer = client.responses.create(model=OPENAI, input=script(**cue), reasoning={"effort": "low"})

    thought, said = answer.output
    assert isinstance(thought, ResponseReasoningItem)
    assert thought.summary[0].text == "Hm."
    assert isinstance(said, ResponseOutputMessage)
    assert said.content[0].type == "refusal"
    assert said.content[0].refusal == "I will not."
    assert answer.output_text == ""
    assert answer.reasoning is not None
    assert answer.reasoning.effort == "low"


def test_what_is_asked_reaches_the_provider_in_words_of_chat(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="echo/phi-4",
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "In verse."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "input_image", "image_url": PIXEL, "detail": "low"},
                    {
                        "type": "input_file",
                        "filename": "a.pdf",
                        "file_data": "data:application/pdf;base64,aa",
                    },
                ],
            },
        ],
        max_output_tokens=7,
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto"},
        store=True,
        metadata={"a": "b"},
        truncation="auto",
        extra_body={"top_k": 3},
    )
    asked = _echoed(answer)

    assert asked == {
        "model": "phi-4",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "system", "content": "In verse."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
                    {
                        "type": "file",
                        "file": {"file_data": "data:application/pdf;base64,aa", "filename": "a.pdf"},
                    },
                ],
            },
        ],
        "max_completion_tokens": 7,
        "response_format": {"type": "json_object"},
        "verbosity": "low",
        "reasoning_effort": "high",
        "top_k": 3,
    }
    assert answer.truncation == "disabled"


def test_an_image_is_seen_by_a_provider_of_the_other_dialect(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=ANTHROPIC,
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
                    {"type": "input_text", "text": "A pixel"},
                ],
            }
        ],
    )

    assert answer.output_text == "You said: A pixel"


def _echoed(answer: Response) -> Any:
    return json.loads(answer.output_text)["body"]
