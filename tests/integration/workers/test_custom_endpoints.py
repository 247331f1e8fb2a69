"""Endpoints of each form, called over a socket as a worker calls them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from shared.domain.job import Job, JobState
from shared.domain.usage import Outcome
from shared.providers.registry import Registry
from shared.providers.tokens import tokens_of_chars
from shared.settings import QueueSettings, Settings
from tests.fakes.model_servers import ACCESS_KEY, ACCOUNT, SECRET_KEY, ModelServers, model_servers
from tests.integration.queue.support import Queue, a_job
from tests.integration.workers.support import ONE_ATTEMPT, Worker, a_worker, failure

PROVIDERS = """
[[endpoint]]
id = "space"
form = "http"
base_url = "http://space.example"
path = "/run/predict"
request = { data = ["{prompt}"] }
answer = "/data/0"
error = "/problem"

[[endpoint]]
id = "tgi"
form = "tgi"
base_url = "http://tgi.example"

[[endpoint]]
id = "aws"
form = "sagemaker"
region = "eu-west-1"
endpoint_name = "tuned-7b"
access_key_env = "LAB_ID"
secret_key_env = "LAB_SECRET"
"""
SECRETS = {"aws": f"{ACCESS_KEY} {SECRET_KEY}"}


def a_chat(provider: str, text: str = "hello", *, stream: bool = False) -> Job:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
    return a_job(provider=provider, stream=stream, body=orjson.dumps(body))


@asynccontextmanager
async def calling(
    queue: Queue,
    folder: Path,
    *,
    secrets: dict[str, str] = SECRETS,
    settings: QueueSettings = ONE_ATTEMPT,
) -> AsyncIterator[tuple[Worker, ModelServers]]:
    file = folder / "providers.toml"
    file.write_text(PROVIDERS)
    known = Registry.from_settings(Settings(_env_file=None, providers_file=file))
    profiles = {name: known.get(name) for name in ("space", "tgi", "aws")}
    async with (
        model_servers() as servers,
        a_worker(queue, servers.base_url, profiles=profiles, secrets=secrets, settings=settings) as worker,
    ):
        yield worker, servers


@pytest.mark.parametrize(
    ("provider", "text"),
    [("space", "space: hello"), ("tgi", "tgi: hello"), ("aws", "sagemaker: hello")],
)
async def test_a_plain_answer_holds_what_the_server_said(
    queue: Queue, tmp_path: Path, provider: str, text: str
) -> None:
    async with calling(queue, tmp_path) as (worker, _):
        result = await worker.run(a_chat(provider))

    assert result.head.outcome is Outcome.SUCCEEDED
    assert orjson.loads(result.body or b"")["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("provider", "pieces"),
    [("space", ["space: hello"]), ("tgi", ["tgi: ", "hello"]), ("aws", ["sagemaker: hello"])],
)
async def test_a_stream_has_the_pieces_the_server_gave_or_one(
    queue: Queue, tmp_path: Path, provider: str, pieces: list[str]
) -> None:
    job = a_chat(provider, stream=True)
    async with calling(queue, tmp_path) as (worker, servers):
        result = await worker.run(job)
        choices = [orjson.loads(event)["choices"][0] for event in await worker.events(job)]
        ((_, sent, _),) = servers.requests

    assert result.head.outcome is Outcome.SUCCEEDED
    assert [piece for choice in choices if (piece := choice["delta"].get("content"))] == pieces
    assert choices[-1]["finish_reason"] == "stop"
    assert not sent.get("stream")


async def test_what_was_counted_is_charged_and_the_rest_estimated(queue: Queue, tmp_path: Path) -> None:
    async with calling(queue, tmp_path) as (worker, _):
        for provider in ("aws", "tgi", "space"):
            await worker.run(a_chat(provider, stream=True))

    counted, streamed, guessed = [settlement.usage for _, settlement in await queue.usage()]
    assert (counted.prompt_tokens, counted.completion_tokens, counted.estimated) == (4, 2, False)
    assert (streamed.prompt_tokens, streamed.completion_tokens, streamed.estimated) == (7, 3, False)
    assert guessed.estimated
    assert guessed.completion_tokens == tokens_of_chars(len("space: hello"))


async def test_a_throttled_endpoint_is_asked_again_and_signed_anew(queue: Queue, tmp_path: Path) -> None:
    job = a_chat("aws", "throttle")
    async with calling(queue, tmp_path, settings=QueueSettings(max_attempts=3)) as (worker, servers):
        await worker.run_once(job)
        ((_, _, headers),) = servers.requests

        assert await queue.state(job) == JobState.QUEUED
        assert headers["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/")
        assert SECRET_KEY not in str(headers)


async def test_what_the_model_refused_is_told_without_the_operators_account(
    queue: Queue, tmp_path: Path
) -> None:
    async with calling(queue, tmp_path) as (worker, _):
        error = failure(await worker.run(a_chat("aws", "too long")))

    assert (error.status, error.message) == (400, "too many tokens")
    assert ACCOUNT not in str(error.to_fields())


@pytest.mark.parametrize("secrets", [{"aws": f"{ACCESS_KEY} wrong"}, {"space": "k"}])
async def test_a_key_that_is_wrong_or_missing_is_ours_to_explain(
    queue: Queue, tmp_path: Path, secrets: dict[str, str]
) -> None:
    async with calling(queue, tmp_path, secrets=secrets) as (worker, _):
        error = failure(await worker.run(a_chat("aws")))

    assert error.code == "provider_credential_refused"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_space_that_says_why_it_has_no_answer_failed(
    queue: Queue, tmp_path: Path, stream: bool
) -> None:
    job = a_chat("space", "break", stream=stream)
    async with calling(queue, tmp_path) as (worker, _):
        error = failure(await worker.run(job))
        events = await worker.events(job)

    assert error.status == 502
    assert "nvidia" not in str(error.to_fields())
    assert events == []
