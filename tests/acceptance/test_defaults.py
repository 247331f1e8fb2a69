"""Where requests go that name neither provider nor model, as the environment says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.echo_provider import EchoProvider
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack

_PROVIDERS_FILE = """
[[endpoint]]
id = "lab"
name = "The lab"
base_url = "{base_url}"
models = ["house-model", "other-model"]
"""


@pytest.fixture
def echo() -> Iterator[EchoProvider]:
    echo = EchoProvider()
    echo.start()
    yield echo
    echo.stop()


@pytest.fixture
async def stack(echo: EchoProvider, sqlite_template: Path, tmp_path: Path) -> AsyncIterator[Stack]:
    """The lab is the default provider; OpenAI's address is the echo's too, so that requests can be read."""
    providers_file = tmp_path / "providers.toml"
    providers_file.write_text(_PROVIDERS_FILE.format(base_url=echo.base_url), encoding="utf-8")
    settings = {
        "HEADRACE_PROVIDERS_FILE": str(providers_file),
        "AI_PROVIDER": "lab",
        "OPENAI_BASE_URL": echo.base_url,
        "OPENAI_MODEL": "gpt-4o",
        "OPENAI_MAX_TOKENS": "77",
        "AI_GATEWAY_MAX_RETRIES": "0",
    }
    async with Stack(schedulers=0, settings=settings, database_template=sqlite_template) as stack:
        yield stack


async def echoed(client: httpx.AsyncClient, path: str, **fields: Any) -> dict[str, Any]:
    """The body that the provider got for a prompt."""
    answer = (await client.post(path, json={"prompt": "Hello", **fields})).json()
    found: dict[str, Any] = json.loads(answer["text"])["body"]
    return found


async def test_defaults_are_those_of_the_environment(stack: Stack) -> None:
    async with stack.client() as client:
        for path in ("/generate-text", "/api/v1/ai/generate", "/v1/inference/complete"):
            body = await echoed(client, path)
            assert body == {"model": "house-model", "messages": [{"role": "user", "content": "Hello"}]}

        of_openai = await echoed(client, "/generate-text", provider="openai")
        assert (of_openai["model"], of_openai["max_completion_tokens"]) == ("gpt-4o", 77)
        shorter = await echoed(client, "/generate-text", provider="openai", max_tokens=5)
        assert "max_completion_tokens" not in shorter

        summary = (await client.post("/summarize", json={"text": "A long text."})).json()
        # A provider with a task of that name is asked before a chat model is.
        assert (summary["provider"], summary["model"]) == ("huggingface", "facebook/bart-large-cnn")
        assert summary["summary"] == "A long text."
        named = {"text": "A long text.", "provider": "lab"}
        summary = (await client.post("/summarize", json=named)).json()
        assert (summary["provider"], summary["model"]) == ("lab", "house-model")
        asked = json.loads(summary["summary"])["body"]
        assert asked["messages"][-1] == {"role": "user", "content": "A long text."}

        async def health() -> dict[str, Any]:
            found: dict[str, Any] = (await client.get("/api/v1/ai/health")).json()
            return found

        async def is_healthy() -> bool:
            return bool((await health())["status"] == "healthy")

        # A worker asks each provider for its models when it starts, which may not be over.
        await eventually(is_healthy, "a healthy default provider")
        assert [each["provider"] for each in (await health())["providers"] if each["default"]] == ["lab"]


async def test_a_provider_is_called_once_where_no_retries_are_wanted(stack: Stack) -> None:
    prompt = "!script " + json.dumps({"status": 500})
    async with stack.client() as client:
        response = await client.post("/generate-text", json={"prompt": prompt, "provider": "anthropic"})

    assert response.status_code == 502
    assert len(stack.calls()) == 1
