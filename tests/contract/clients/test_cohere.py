"""Cohere's client of its second API."""

from __future__ import annotations

import cohere
import pytest

from tests.contract.broker import BrokerUnderTest
from tests.contract.clients.conversation import VECTORS

TEXTS = ["a fish", "a line of people", "people in a line"]


@pytest.mark.parametrize("model", [VECTORS, "library/cohere"])
def test_documents_are_ranked_best_first(broker: BrokerUnderTest, model: str) -> None:
    client = cohere.ClientV2(api_key=broker.api_key, base_url=broker.url)

    answer = client.rerank(model=model, query="line of", documents=TEXTS, top_n=2)

    assert [(result.index, result.relevance_score) for result in answer.results] == [(1, 1.0), (2, 0.5)]
    assert answer.id
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.search_units == 1


async def test_the_asynchronous_client_gets_the_same(broker: BrokerUnderTest) -> None:
    client = cohere.AsyncClientV2(api_key=broker.api_key, base_url=broker.url)

    answer = await client.rerank(model=VECTORS, query="line of", documents=TEXTS)

    assert [result.index for result in answer.results] == [1, 2, 0]


def test_a_refused_key_is_the_error_of_the_client(broker: BrokerUnderTest) -> None:
    client = cohere.ClientV2(api_key="wrong", base_url=broker.url)

    with pytest.raises(cohere.UnauthorizedError, match="API key"):
        client.rerank(model=VECTORS, query="line", documents=TEXTS)


def test_a_provider_that_refuses_is_a_bad_request(broker: BrokerUnderTest) -> None:
    client = cohere.ClientV2(api_key=broker.api_key, base_url=broker.url)

    with pytest.raises(cohere.BadRequestError, match="not with me"):
        client.rerank(model="library/refuse", query="line", documents=TEXTS)
