"""The scripted provider's smaller endpoints: vectors, rankings, completions, tasks and counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.fakes.provider import ScriptedProvider

QUERY = {"model": "m", "query": "red fish", "documents": ["a blue bird", "a red fish", "red"]}


@pytest.fixture
async def client(provider: ScriptedProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=provider.url, headers={"authorization": "Bearer k"}, trust_env=False
    ) as client:
        yield client


@pytest.fixture
async def official(provider: ScriptedProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as official:
        yield official


async def ask(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_a_vector_is_the_same_as_numbers_and_as_base64(official: openai.AsyncOpenAI) -> None:
    packed = await official.embeddings.create(model="m", input=["one", "two"])
    plain = await official.embeddings.create(model="m", input=["one", "two"], encoding_format="float")
    short = await official.embeddings.create(model="m", input="one", dimensions=3)

    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert packed.data[0].embedding != packed.data[1].embedding
    assert sum(x * x for x in packed.data[0].embedding) == pytest.approx(1)
    assert len(short.data[0].embedding) == 3
    assert packed.usage.total_tokens == 2


async def test_a_completion_says_the_same_plain_and_streamed(official: openai.AsyncOpenAI) -> None:
    plain = await official.completions.create(model="m", prompt="Once upon")
    stream = await official.completions.create(
        model="m", prompt="Once upon", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert plain.choices[0].text == "You said: Once upon"
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == plain.choices[0].text
    assert chunks[-1].usage == plain.usage


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
async def test_jinas_ranking_is_by_words_shared_with_the_query(client: httpx.AsyncClient, path: str) -> None:
    answer = await ask(client, path, {**QUERY, "top_n": 2})

    assert answer["results"] == [
        {"index": 1, "relevance_score": 1.0},
        {"index": 2, "relevance_score": 0.5},
    ]
    assert answer["usage"]["total_tokens"] > 0


async def test_coheres_ranking_bills_units(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "/v2/rerank", QUERY)

    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert answer["meta"]["billed_units"] == {"search_units": 1}


@pytest.mark.parametrize("path", ["/retrieval/nvidia/rank-1/reranking", "/v1/ranking"])
async def test_nvidias_ranking_is_in_logits(client: httpx.AsyncClient, path: str) -> None:
    passages = [{"text": text} for text in QUERY["documents"]]
    answer = await ask(client, path, {"model": "m", "query": {"text": "red fish"}, "passages": passages})

    assert answer["rankings"] == [
        {"index": 1, "logit": 5.0},
        {"index": 2, "logit": 0.0},
        {"index": 0, "logit": -5.0},
    ]


async def test_hugging_faces_tasks_lie_below_the_model(client: httpx.AsyncClient) -> None:
    below = "/huggingface/hf-inference/models/org/name/pipeline"
    vectors = await ask(client, f"{below}/feature-extraction", {"inputs": ["one", "two"]})
    summary = await ask(client, f"{below}/summarization", {"inputs": "a b c d e f g h i j"})

    assert [len(vector) for vector in vectors] == [8, 8]
    assert summary == [{"summary_text": "a b c d e f g h"}]


async def test_anthropics_tokens_are_counted(client: httpx.AsyncClient) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "12345678"}]}

    assert await ask(client, "/anthropic/v1/messages/count_tokens", body) == {"input_tokens": 2}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/ranking"])
async def test_a_body_that_asks_nothing_is_a_bad_request(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.post(path, json={"model": "m"})

    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/completions"])
async def test_cues_work_there_too(client: httpx.AsyncClient, path: str) -> None:
    body = {**QUERY, "input": "a", "prompt": "a"}
    reply = await client.post(path, json=body, headers={"x-script": '{"status": 503}'})

    assert reply.status_code == 503
