"""The scripted provider in the manner of each provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cli.scripted_provider.manners import MANNERS
from shared.providers.registry import BUILT_IN
from tests.conformance import goldens
from tests.fakes.provider import ScriptedProvider

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a b c"}]}


@pytest.fixture
async def client(provider: ScriptedProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=provider.url, headers={"authorization": "Bearer k"}, trust_env=False
    ) as client:
        yield client


async def ask(client: httpx.AsyncClient, name: str, cue: str = "{}", **body: Any) -> httpx.Response:
    path = f"/{name}/v1/chat/completions"
    return await client.post(path, json={**CHAT, **body}, headers={"x-script": cue})


def test_every_manner_is_one_of_a_provider() -> None:
    assert MANNERS.keys() <= BUILT_IN.keys()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("openai", {"error": {"message": "No", "type": "requests", "param": None, "code": "slow"}}),
        ("xai", {"code": "slow", "error": "No"}),
        ("openrouter", {"error": {"code": "slow", "message": "No"}, "user_id": "user_scripted"}),
        ("litellm", {"error": {"message": "No", "type": "None", "param": "None", "code": "slow"}}),
        ("nvidia_nim", {"error": {"message": "No", "type": "slow", "code": "slow"}}),
        ("huggingface", {"error": {"message": "No", "type": "slow", "code": "slow"}}),
        ("vllm", {"error": {"message": "No", "type": "slow", "param": None, "code": "slow"}}),
        ("unheard_of", {"error": {"message": "No", "type": "requests", "param": None, "code": "slow"}}),
    ],
)
async def test_an_error_has_the_form_of_its_provider(
    client: httpx.AsyncClient, name: str, body: dict[str, Any]
) -> None:
    cue = '{"status": 429, "error_message": "No", "error_code": "slow"}'

    reply = await ask(client, name, cue)

    assert (reply.status_code, reply.json()) == (429, body)


async def test_a_validation_error_of_fastapi_and_a_model_that_loads(client: httpx.AsyncClient) -> None:
    invalid = await ask(client, "perplexity", '{"status": 422, "error_message": "No"}')
    loading = await ask(client, "huggingface", '{"status": 503, "error_message": "Loading"}')

    assert invalid.json()["detail"][0]["loc"] == ["body", "messages"]
    assert loading.json() == {"error": "Loading", "estimated_time": 1.5}


async def test_waiting_shows_in_comments_and_blank_lines(client: httpx.AsyncClient) -> None:
    plain = await ask(client, "deepseek")
    streamed = await ask(client, "deepseek", stream=True)
    routed = await ask(client, "openrouter", stream=True)

    assert plain.text.startswith("\n\n{")
    assert streamed.text.startswith(": keep-alive\n\ndata: ")
    assert routed.text.startswith(": OPENROUTER PROCESSING\n\ndata: ")


async def test_openrouter_ends_a_broken_stream_within_a_chunk(client: httpx.AsyncClient) -> None:
    cue = '{"error_in_stream": 1, "error_message": "Gone"}'

    reply = await ask(client, "openrouter", cue, stream=True)

    assert '"finish_reason":"error"' in reply.text
    assert '"error":{"code":500,"message":"Gone"}' in reply.text


async def test_perplexity_says_in_each_chunk_all_it_said_and_its_sources(client: httpx.AsyncClient) -> None:
    usage = {"include_usage": True}
    plain = (await ask(client, "perplexity")).json()
    reply = await ask(client, "perplexity", stream=True, stream_options=usage)
    chunks = [httpx.Response(200, text=line[6:]).json() for line in reply.text.split("\n\n")[:-2]]

    said = [chunk["choices"][0]["message"]["content"] for chunk in chunks]
    assert said == sorted(said, key=len)
    assert said[-1] == "You said: a b c" == plain["choices"][0]["message"]["content"]
    assert all(chunk["citations"] for chunk in (plain, *chunks))
    assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["usage"] == plain["usage"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("anthropic", "chat/completions"),
        ("openai", "rerank"),
        ("deepseek", "embeddings"),
        ("perplexity", "completions"),
        ("huggingface", "rerank"),
    ],
)
async def test_what_a_provider_does_not_have_is_not_found(
    client: httpx.AsyncClient, provider: ScriptedProvider, name: str, path: str
) -> None:
    reply = await client.post(f"/{name}/v1/{path}", json=CHAT)

    assert reply.status_code == 404
    assert "error" in reply.json()
    assert [call.status for call in await provider.calls(closed=1)] == [404]


async def test_models_are_listed_as_the_provider_lists_them(client: httpx.AsyncClient) -> None:
    listed = {
        name: (await client.get(f"/{name}/v1/models")).json()["data"][0]
        for name in ("openai", "anthropic", "openrouter", "vllm")
    }
    one = await client.get("/vllm/v1/models/org/name")
    none = await client.get("/perplexity/v1/models")

    assert listed["openai"].keys() == {"id", "object", "created", "owned_by"}
    assert listed["anthropic"]["type"] == "model"
    assert listed["openrouter"]["pricing"]["prompt"] == "0.000001"
    assert listed["vllm"]["max_model_len"] == 40960
    assert (one.json()["id"], one.json()["max_model_len"]) == ("org/name", 40960)
    assert none.status_code == 404


async def test_golden_bodies_are_answered_byte_for_byte(client: httpx.AsyncClient) -> None:
    plain = await ask(client, "xai", '{"golden": "tools"}')
    streamed = await ask(client, "xai", '{"golden": "tools"}', stream=True)
    error = await ask(client, "xai", '{"golden": "rate_limit.429.error", "status": 429}', stream=True)

    assert plain.content == (goldens.ROOT / "xai" / "tools.json").read_bytes()
    assert streamed.content == (goldens.ROOT / "xai" / "tools.sse").read_bytes()
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert error.status_code == 429
    assert error.content == (goldens.ROOT / "xai" / "rate_limit.429.error.json").read_bytes()


@pytest.mark.parametrize("name", ["absent", "../xai/text"])
async def test_a_golden_body_that_is_not_there_is_a_complaint(client: httpx.AsyncClient, name: str) -> None:
    reply = await ask(client, "xai", f'{{"golden": "{name}"}}')

    assert reply.status_code == 400
    assert "golden" in reply.json()["error"]


async def test_a_pending_answer_is_promised_and_then_given(client: httpx.AsyncClient) -> None:
    promise = await ask(client, "nvidia_nim", '{"pending": 2}')
    status = f"/nvidia_nim/v1/status/{promise.headers['nvcf-reqid']}"
    first, second, third = [await client.get(status) for _ in range(3)]

    assert (promise.status_code, first.status_code, second.status_code) == (202, 202, 200)
    assert second.json()["choices"][0]["message"]["content"] == "You said: a b c"
    assert third.status_code == 404


async def test_the_last_calls_are_remembered_as_they_came(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    await ask(client, "openai", '{"text": "first"}')
    await client.post("/openai/v1/chat/completions", content=b"{broken")
    for _ in range(199):
        await ask(client, "openai", '{"text": "next"}', user="u")

    calls = await provider.calls(closed=201)
    assert calls[0].received is None
    assert calls[1].received is not None
    assert calls[1].received["body"] is None
    assert calls[-1].received is not None
    assert calls[-1].received["body"] == {**CHAT, "user": "u"}
    assert calls[-1].received["headers"]["authorization"] == "Bearer k"
