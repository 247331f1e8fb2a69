from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anthropic
import pytest

from tests.contract.broker import BrokerUnderTest


@pytest.fixture
def client(broker: BrokerUnderTest) -> Iterator[anthropic.Anthropic]:
    """Tries once, so that what is seen is one answer."""
    with anthropic.Anthropic(base_url=broker.url, api_key=broker.api_key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(broker: BrokerUnderTest) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=broker.url, api_key=broker.api_key, max_retries=0) as client:
        yield client
