"""LangChain's models of OpenAI."""

from __future__ import annotations

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.contract.broker import BrokerUnderTest
from tests.contract.clients.conversation import BOTH, HAMBURG, VECTORS, City, calling, script


def chat(broker: BrokerUnderTest, model: str, **settings: object) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=broker.base_url, api_key=broker.api_key, model=model, max_retries=0, **settings
    )


def get_weather(city: str, days: int) -> str:
    """The weather of a city."""
    return f"{days} days of rain in {city}"


@pytest.mark.parametrize("model", BOTH)
def test_a_conversation_is_answered_with_its_usage(broker: BrokerUnderTest, model: str) -> None:
    answer = chat(broker, model, temperature=0.5).invoke([SystemMessage("Be brief."), HumanMessage("Hello")])

    assert answer.content == "You said: Hello"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["input_tokens"] > 0
    assert answer.usage_metadata["output_tokens"] > 0


@pytest.mark.parametrize("model", BOTH)
def test_a_stream_adds_up_and_ends_with_its_usage(broker: BrokerUnderTest, model: str) -> None:
    chunks = list(chat(broker, model, stream_usage=True).stream("one two three four"))

    assert "".join(chunk.content for chunk in chunks) == "You said: one two three four"
    assert len([chunk for chunk in chunks if chunk.content]) > 2
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


@pytest.mark.parametrize("model", BOTH)
async def test_the_asynchronous_side_says_the_same(broker: BrokerUnderTest, model: str) -> None:
    llm = chat(broker, model)

    answer = await llm.ainvoke("Hello")
    pieces = [chunk.content async for chunk in llm.astream("Hello")]

    assert answer.content == "".join(pieces) == "You said: Hello"


@pytest.mark.parametrize("model", BOTH)
def test_a_bound_tool_is_called_and_its_result_is_heard(broker: BrokerUnderTest, model: str) -> None:
    weather = tool(get_weather)
    llm = chat(broker, model).bind_tools([weather])
    asked = HumanMessage(calling("get_weather", city="Paris", days=2))

    calling_message = llm.invoke([asked])
    (call,) = calling_message.tool_calls
    result = weather.invoke(call)
    answer = llm.invoke([asked, calling_message, result])

    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris", "days": 2})
    assert isinstance(result, ToolMessage)
    assert answer.content == "The tool said: 2 days of rain in Paris"


@pytest.mark.parametrize("model", BOTH)
def test_tool_calls_are_put_together_from_a_stream(broker: BrokerUnderTest, model: str) -> None:
    llm = chat(broker, model).bind_tools([tool(get_weather)], tool_choice="get_weather")

    first, *others = llm.stream(calling("get_weather", city="Paris", days=2))
    whole = sum(others, start=first)

    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [
        ("get_weather", {"city": "Paris", "days": 2})
    ]


@pytest.mark.parametrize("model", BOTH)
def test_an_answer_is_held_to_a_schema_by_a_tool(broker: BrokerUnderTest, model: str) -> None:
    llm = chat(broker, model).with_structured_output(City, method="function_calling")

    assert llm.invoke(calling("City", **HAMBURG.model_dump())) == HAMBURG


def test_an_answer_is_held_to_a_schema_by_its_format(broker: BrokerUnderTest) -> None:
    llm = chat(broker, BOTH[0]).with_structured_output(City, method="json_schema")

    assert llm.invoke(script(text=HAMBURG.model_dump_json())) == HAMBURG


def test_a_refused_key_is_the_error_of_the_client(broker: BrokerUnderTest) -> None:
    llm = ChatOpenAI(base_url=broker.base_url, api_key="wrong", model=BOTH[0], max_retries=0)

    with pytest.raises(openai.AuthenticationError, match="API key"):
        llm.invoke("Hello")


def test_documents_and_queries_become_vectors(broker: BrokerUnderTest) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=broker.base_url,
        api_key=broker.api_key,
        model=VECTORS,
        # Its default counts tokens with a vocabulary that it would fetch.
        check_embedding_ctx_length=False,
    )

    assert embeddings.embed_documents(["a", "b"]) == [[0.0, 0.5, -0.25], [1.0, 0.5, -0.25]]
    assert embeddings.embed_query("a") == [0.0, 0.5, -0.25]
