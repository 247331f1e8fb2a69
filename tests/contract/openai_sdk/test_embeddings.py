"""`POST /v1/embeddings`, through the official OpenAI client, which asks for base64 unless told not to."""

from __future__ import annotations

from typing import Any

import openai
import pytest

pytestmark = pytest.mark.xdist_group("contract")

ENCODINGS = ("plain", "floats", "base64")
FIRST = [0.0, 0.5, -0.25]


@pytest.mark.parametrize("model", ENCODINGS)
def test_the_client_gets_numbers_whichever_encoding_the_provider_speaks(
    client: openai.OpenAI, model: str
) -> None:
    answer = client.embeddings.create(model=f"library/{model}", input=["one text", "another"])

    assert [item.embedding for item in answer.data] == [FIRST, [1.0, 0.5, -0.25]]
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.model == model
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)


@pytest.mark.parametrize("model", ENCODINGS)
def test_numbers_are_given_to_who_asks_for_numbers(client: openai.OpenAI, model: str) -> None:
    answer = client.embeddings.create(model=f"library/{model}", input="one text", encoding_format="float")

    assert [item.embedding for item in answer.data] == [FIRST]


def test_base64_stays_base64_on_the_wire(client: openai.OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(
        model="library/floats", input="one text", encoding_format="base64"
    )

    assert raw.http_response.json()["data"][0]["embedding"] == "AAAAAAAAAD8AAIC+"


def test_fewer_dimensions_can_be_asked_for(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="library/plain", input="one text", dimensions=2)

    assert answer.data[0].embedding == FIRST[:2]


@pytest.mark.parametrize(
    ("texts", "vectors", "tokens"),
    [([11, 22, 33], 1, 3), ([[11, 22], [33]], 2, 3), ("one text", 1, 2), (["text"] * 2_048, 2_048, 2_048)],
    ids=["tokens", "lists of tokens", "text", "as many texts as may be"],
)
def test_every_form_of_an_input_is_taken(
    client: openai.OpenAI, texts: Any, vectors: int, tokens: int
) -> None:
    answer = client.embeddings.create(model="library/plain", input=texts)

    assert [item.embedding[0] for item in answer.data] == list(range(vectors))
    assert answer.usage.total_tokens == tokens


def test_as_many_tokens_as_openai_takes_are_taken(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="library/plain", input=[[7] * 300] * 1_000)

    assert len(answer.data) == 1_000


def test_usage_is_there_where_the_provider_says_none(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="library/mute", input="one text")

    assert answer.usage.total_tokens == answer.usage.prompt_tokens >= 0


def test_an_answer_that_is_none_and_a_refusal_have_their_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as broken:
        client.embeddings.create(model="library/garbage", input="Hello")
    with pytest.raises(openai.BadRequestError, match="not with me") as refused:
        client.embeddings.create(model="library/refuse", input="Hello")

    assert broken.value.code == "invalid_response"
    assert refused.value.param == "input"


def test_a_provider_without_embeddings_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="embeddings") as refused:
        client.embeddings.create(model="anthropic/claude-haiku-4-5", input="Hello")

    assert refused.value.code == "unsupported_by_provider"
