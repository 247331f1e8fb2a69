"""Instructor: typed extraction over both official clients."""

from __future__ import annotations

import anthropic
import instructor
import openai
import pytest

from tests.contract.broker import BrokerUnderTest
from tests.contract.clients.conversation import BOTH, HAMBURG, City, calling, script


def openai_client(broker: BrokerUnderTest) -> openai.OpenAI:
    return openai.OpenAI(base_url=broker.base_url, api_key=broker.api_key, max_retries=0)


def anthropic_client(broker: BrokerUnderTest) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=broker.url, api_key=broker.api_key, max_retries=0)


@pytest.mark.parametrize("model", BOTH)
def test_a_model_is_extracted_over_openai_by_a_tool(broker: BrokerUnderTest, model: str) -> None:
    with openai_client(broker) as official:
        client = instructor.from_openai(official)

        city = client.chat.completions.create(
            model=model,
            response_model=City,
            max_retries=0,
            messages=[{"role": "user", "content": calling("City", **HAMBURG.model_dump())}],
        )

    assert isinstance(city, City)
    assert city.model_dump() == HAMBURG.model_dump()


def test_a_model_is_extracted_over_openai_by_its_format(broker: BrokerUnderTest) -> None:
    with openai_client(broker) as official:
        client = instructor.from_openai(official, mode=instructor.Mode.JSON_SCHEMA)

        city = client.chat.completions.create(
            model=BOTH[0],
            response_model=City,
            max_retries=0,
            messages=[{"role": "user", "content": script(text=HAMBURG.model_dump_json())}],
        )

    assert isinstance(city, City)
    assert city.model_dump() == HAMBURG.model_dump()


@pytest.mark.parametrize("model", BOTH)
def test_a_model_is_extracted_over_anthropic(broker: BrokerUnderTest, model: str) -> None:
    with anthropic_client(broker) as official:
        client = instructor.from_anthropic(official)

        city = client.messages.create(
            model=model,
            max_tokens=100,
            response_model=City,
            max_retries=0,
            messages=[{"role": "user", "content": calling("City", **HAMBURG.model_dump())}],
        )

    assert isinstance(city, City)
    assert city.model_dump() == HAMBURG.model_dump()


@pytest.mark.parametrize("model", BOTH)
def test_a_stream_is_extracted_as_it_fills(broker: BrokerUnderTest, model: str) -> None:
    with openai_client(broker) as official:
        client = instructor.from_openai(official)

        partial = list(
            client.chat.completions.create_partial(
                model=model,
                response_model=City,
                max_retries=0,
                messages=[{"role": "user", "content": calling("City", **HAMBURG.model_dump())}],
            )
        )

    assert len(partial) > 1
    assert partial[-1].model_dump() == HAMBURG.model_dump()
