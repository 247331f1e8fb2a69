"""Pydantic AI's agents, over its models of OpenAI and of Anthropic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.contract.broker import BrokerUnderTest
from tests.contract.clients.conversation import ANTHROPIC, HAMBURG, OPENAI, City, calling

Maker = Callable[[BrokerUnderTest, str], Any]


def over_openai(broker: BrokerUnderTest, model: str) -> Model:
    provider = OpenAIProvider(base_url=broker.base_url, api_key=broker.api_key)
    return OpenAIChatModel(model, provider=provider)


def over_anthropic(broker: BrokerUnderTest, model: str) -> Model:
    provider = AnthropicProvider(base_url=broker.url, api_key=broker.api_key)
    return AnthropicModel(model, provider=provider)


EVERY_WAY = pytest.mark.parametrize(
    ("maker", "model"),
    [
        (over_openai, OPENAI),
        (over_openai, ANTHROPIC),
        (over_anthropic, OPENAI),
        (over_anthropic, ANTHROPIC),
    ],
)


@EVERY_WAY
async def test_an_agent_answers_with_its_usage(broker: BrokerUnderTest, maker: Maker, model: str) -> None:
    agent = Agent(maker(broker, model), instructions="Be brief.")

    run = await agent.run("Hello")

    assert run.output == "You said: Hello"
    assert run.usage.input_tokens > 0
    assert run.usage.output_tokens > 0


@EVERY_WAY
async def test_an_agent_goes_on_from_its_history(broker: BrokerUnderTest, maker: Maker, model: str) -> None:
    agent = Agent(maker(broker, model))

    first = await agent.run("Hello")
    second = await agent.run("Again", message_history=first.all_messages())

    assert second.output == "You said: Again"
    assert second.usage.input_tokens > first.usage.input_tokens


@EVERY_WAY
async def test_an_agent_uses_its_tool(broker: BrokerUnderTest, maker: Maker, model: str) -> None:
    asked = []

    def get_weather(city: str, days: int) -> str:
        """The weather of a city."""
        asked.append((city, days))
        return f"{days} days of rain in {city}"

    agent = Agent(maker(broker, model), tools=[get_weather])

    run = await agent.run(calling("get_weather", city="Paris", days=2))

    assert asked == [("Paris", 2)]
    assert run.output == "The tool said: 2 days of rain in Paris"
    assert run.usage.requests == 2


@EVERY_WAY
async def test_an_agent_answers_in_a_type(broker: BrokerUnderTest, maker: Maker, model: str) -> None:
    agent = Agent(maker(broker, model), output_type=City)

    run = await agent.run(calling("final_result", **HAMBURG.model_dump()))

    assert run.output == HAMBURG


@EVERY_WAY
async def test_an_agent_streams_text(broker: BrokerUnderTest, maker: Maker, model: str) -> None:
    agent = Agent(maker(broker, model))

    async with agent.run_stream("one two three four") as run:
        pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]

    assert "".join(pieces) == "You said: one two three four"
    assert len(pieces) > 2


@EVERY_WAY
async def test_an_agent_streams_a_type(broker: BrokerUnderTest, maker: Maker, model: str) -> None:
    agent = Agent(maker(broker, model), output_type=City)

    async with agent.run_stream(calling("final_result", **HAMBURG.model_dump())) as run:
        output = await run.get_output()

    assert output == HAMBURG


@pytest.mark.parametrize("maker", [over_openai, over_anthropic])
async def test_an_unknown_model_is_an_error_with_its_status(broker: BrokerUnderTest, maker: Maker) -> None:
    agent = Agent(maker(broker, "no-such-provider/model"))

    with pytest.raises(ModelHTTPError) as refused:
        await agent.run("Hello")

    assert refused.value.status_code == 404
