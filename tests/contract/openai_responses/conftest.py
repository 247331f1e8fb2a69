from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.contract.broker import BrokerUnderTest


@pytest.fixture
def client(broker: BrokerUnderTest) -> Iterator[openai.OpenAI]:
    """Tries once, so that what is seen is one answer."""
    with openai.OpenAI(base_url=broker.base_url, api_key=broker.api_key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(broker: BrokerUnderTest) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=broker.base_url, api_key=broker.api_key, max_retries=0) as client:
        yield client
