"""An endpoint of each form, and a preset, through the whole broker and over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.model_servers import ACCESS_KEY, SECRET_KEY, ModelServers, model_servers
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

PROVIDERS = """
[[endpoint]]
id = "plain"
base_url = "{url}/v1"
headers = {{ X-Team = "nlp" }}

[[endpoint]]
id = "space"
form = "http"
base_url = "{url}"
path = "/run/predict"
request = {{ data = ["{{prompt}}", "{{max_tokens}}"] }}
answer = "/data/0"

[[endpoint]]
id = "tgi"
form = "tgi"
base_url = "{url}"
template = "chatml"

[[endpoint]]
id = "aws"
form = "sagemaker"
base_url = "{url}"
region = "eu-west-1"
endpoint_name = "tuned-7b"
access_key_env = "LAB_AWS_ID"
secret_key_env = "LAB_AWS_SECRET"

[[preset]]
name = "contracts"
model = "plain/phi-4"
system = "You review contracts."
defaults = {{ temperature = 0.1, max_tokens = 50 }}

[[preset]]
name = "drafts"
model = "plain/phi-4"
defaults = {{ n = 2 }}

[[preset]]
name = "reviews"
model = "aws/tuned"
system = "You review contracts."
"""
CHATML = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def chat(model: str, content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


async def streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post("/v1/chat/completions", json={**body, **options})
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_an_endpoint_of_every_form_and_a_preset_answer_plain_and_streamed(
    fresh_stack: FreshStack, tmp_path: Path
) -> None:
    file = tmp_path / "providers.toml"
    async with model_servers() as servers:
        file.write_text(PROVIDERS.format(url=servers.base_url))
        settings = {
            "HEADRACE_PROVIDERS_FILE": str(file),
            "LAB_AWS_ID": ACCESS_KEY,
            "LAB_AWS_SECRET": SECRET_KEY,
            "HEADRACE_QUEUE__MAX_ATTEMPTS": "1",
        }
        stack = await fresh_stack(settings=settings)
        async with stack.client() as client:
            expected = {
                "plain/m": "openai: hello",
                "space/m": "space: hello",
                "tgi/m": f"tgi: {CHATML}",
                "aws/m": "sagemaker: hello",
            }
            for model, text in expected.items():
                answer = await client.post("/v1/chat/completions", json=chat(model))
                assert answer.status_code == 200, answer.text
                assert answer.json()["choices"][0]["message"]["content"] == text

            for model, text in expected.items():
                chunks = await streamed(client, chat(model))
                assert text_of(chunks) == text
                assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] == "stop"
            assert chunks[-1]["usage"]["total_tokens"] == 6

            message = await client.post("/v1/messages", json=chat("aws/m", max_tokens=9, stream=True))
            assert message.status_code == 200, message.text
            assert '"text":"sagemaker: hello"' in message.text
            assert "event: message_stop" in message.text
            assert "text_delta" in message.text

            for model, content in (("tgi/m", "overload"), ("aws/m", "throttle")):
                limited = await client.post("/v1/chat/completions", json=chat(model, content))
                assert limited.status_code == 429, limited.text

            refused = await client.post("/v1/chat/completions", json=chat("space/m", tools=[{"type": "x"}]))
            assert refused.status_code in {400, 422}

    bodies = [(path, body) for path, body, _ in servers.requests]
    assert bodies[0][0] == "/v1/chat/completions"
    assert servers.requests[0][2]["x-team"] == "nlp"
    assert ("/run/predict", {"data": ["hello", None]}) in bodies
    assert all("secret" not in headers.get("authorization", "") for *_, headers in servers.requests)


SYSTEM = "You review contracts."
HELLO = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [HELLO]}),
        ("/api/v1/chat", {"messages": [HELLO]}),
        ("/v1/messages", {"messages": [HELLO], "max_tokens": 50}),
        ("/v1/responses", {"input": "hello"}),
    ],
)
async def test_a_preset_is_a_model_on_every_surface(
    preset_stack: tuple[Stack, ModelServers], path: str, body: dict[str, Any]
) -> None:
    stack, servers = preset_stack
    servers.requests.clear()
    async with stack.client() as client:
        answer = await client.post(path, json={"model": "contracts", **body})

    assert answer.status_code == 200, answer.text
    assert "openai: hello" in answer.text
    ((_, sent, _),) = servers.requests
    assert sent["model"] == "phi-4"
    assert sent["messages"][0] in ({"role": role, "content": SYSTEM} for role in ("system", "developer"))
    assert sent["temperature"] == 0.1
    assert 50 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))


async def test_several_answers_of_a_preset_are_not_streamed_as_one(
    preset_stack: tuple[Stack, ModelServers],
) -> None:
    stack, _ = preset_stack
    routes: dict[str, dict[str, Any]] = {
        "/api/v1/chat": {"messages": [HELLO]},
        "/v1/inference/stream": {"prompt": "hi"},
    }
    async with stack.client() as client:
        for path, said in routes.items():
            asked = {"model": "drafts", "stream": True, **said}
            refused = await client.post(path, json=asked)
            answered = await client.post(path, json={**asked, "n": 1})

            assert (refused.status_code, refused.json()["error"]["details"]["param"]) == (422, "n")
            assert answered.status_code == 200, answered.text


async def test_presets_are_listed_as_models(preset_stack: tuple[Stack, ModelServers]) -> None:
    stack, _ = preset_stack
    async with stack.client() as client:
        cards = {card["id"]: card for card in (await client.get("/v1/models")).json()["data"]}
        found = await client.get("/v1/models/contracts")

    assert cards["contracts"]["owned_by"] == "plain"
    assert found.json()["id"] == "contracts"


async def test_a_preset_continues_a_prompt_and_counts_in_tokens(
    preset_stack: tuple[Stack, ModelServers],
) -> None:
    stack, servers = preset_stack
    servers.requests.clear()
    async with stack.client() as client:
        continued = await client.post("/v1/completions", json={"model": "reviews", "prompt": "hello"})
        counts = [
            (
                await client.post("/v1/messages/count_tokens", json={"model": model, "messages": [HELLO]})
            ).json()["input_tokens"]
            for model in ("contracts", "plain/phi-4")
        ]

    assert continued.status_code == 200, continued.text
    assert f"sagemaker: {SYSTEM}\\n\\nhello" in continued.text
    assert counts[0] > counts[1]


async def test_a_name_beside_a_provider_is_that_providers_model(
    preset_stack: tuple[Stack, ModelServers],
) -> None:
    stack, servers = preset_stack
    servers.requests.clear()
    asked = {"provider": "plain", "model": "contracts", "messages": [HELLO]}
    async with stack.client() as client:
        answer = await client.post("/api/v1/chat", json=asked)

    assert answer.status_code == 200, answer.text
    ((_, sent, _),) = servers.requests
    assert (sent["model"], sent["messages"]) == ("contracts", [HELLO])


@pytest.fixture
async def preset_stack(fresh_stack: FreshStack, tmp_path: Path) -> AsyncIterator[tuple[Stack, ModelServers]]:
    file = tmp_path / "providers.toml"
    async with model_servers() as servers:
        file.write_text(PROVIDERS.format(url=servers.base_url))
        stack = await fresh_stack(
            settings={
                "HEADRACE_PROVIDERS_FILE": str(file),
                "LAB_AWS_ID": ACCESS_KEY,
                "LAB_AWS_SECRET": SECRET_KEY,
            }
        )
        yield stack, servers


@pytest.mark.parametrize("secret", ["wrong-secret"])
async def test_a_signature_that_does_not_match_is_our_keys_fault(
    fresh_stack: FreshStack, tmp_path: Path, secret: str
) -> None:
    file = tmp_path / "providers.toml"
    async with model_servers() as servers:
        file.write_text(PROVIDERS.format(url=servers.base_url))
        settings = {
            "HEADRACE_PROVIDERS_FILE": str(file),
            "LAB_AWS_ID": ACCESS_KEY,
            "LAB_AWS_SECRET": secret,
        }
        stack = await fresh_stack(settings=settings)
        async with stack.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat("aws/m"))

    assert answer.status_code == 502, answer.text
    assert secret not in answer.text
