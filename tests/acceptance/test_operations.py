"""What an operator relies on: keys that die, drains that end, boots in any order, logs that say who."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

import httpx
import pytest

from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.redis_server import RedisServer
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("operations")

CANARY = "the quick brown canary sings at midnight"


def chat(text: str, *, stream: bool = False, model: str = "gpt-4o-mini") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}


def script(cue: dict[str, object], text: str = "Hello") -> str:
    return f"!script {json.dumps(cue)}\n{text}"


async def test_a_revoked_key_is_refused_by_every_api_within_5_seconds(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(apis=2)
    key = await stack.new_api_key(AccountId("leaver"))
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(trust_env=False) as client:

        async def statuses() -> list[int]:
            answers = [await client.get(f"{api.url}/v1/models", headers=headers) for api in stack.apis]
            return [answer.status_code for answer in answers]

        assert await statuses() == [200, 200]
        listed = await _cli(stack, "keys", "list", "--account", "leaver", "--json")
        await _cli(stack, "keys", "revoke", json.loads(listed)[0]["id"])
        began = time.monotonic()

        async def refused() -> bool:
            return await statuses() == [401, 401]

        await eventually(refused, "401 from both", within=5)

    assert time.monotonic() - began < 5


async def test_a_draining_api_ends_its_streams_with_an_error_and_another_one_goes_on(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(apis=2, settings={"HEADRACE_API__DRAIN_SECONDS": "2"})
    leaving, staying = stack.apis
    body = chat(script({"chunks": 30, "between_chunks_ms": 100}), stream=True)
    seen: list[str] = []
    async with stack.client(leaving) as client, client.stream(
        "POST", "/v1/chat/completions", json=body, headers={"x-stream-ids": "true"}
    ) as response:  # fmt: skip
        lines = response.aiter_lines()
        async for line in lines:
            seen.append(line)
            if line.startswith("id:"):
                break
        began = time.monotonic()
        leaving.popen.terminate()
        seen += [line async for line in lines]
    code = await leaving.has_ended(within=5)
    drained = time.monotonic() - began

    ids = [line.removeprefix("id: ") for line in seen if line.startswith("id:")]
    async with stack.client(staying) as client:
        resumed = await client.post("/v1/chat/completions", json=body, headers={"Last-Event-ID": ids[-1]})
        whole = await client.post("/v1/chat/completions", json=body)

    assert code == 0
    assert drained < 4
    assert '"code":"server_draining"' in seen[-2]
    assert not any("[DONE]" in line for line in seen)
    texts = [_content(line) for line in [*seen, *resumed.text.splitlines()]]
    assert "".join(texts) == "".join(_content(line) for line in whole.text.splitlines())
    assert resumed.text.endswith("data: [DONE]\n\n")
    assert len(stack.calls()) == 2


async def test_processes_that_boot_before_redis_wait_for_it(fresh_stack: FreshStack) -> None:
    redis = RedisServer()
    redis.start()
    stack = await fresh_stack(redis=redis)
    redis.stop()
    api = stack.spawn_api()
    worker = stack.spawn_worker()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:

        async def is_alive() -> bool:
            try:
                return (await client.get("/health/live")).status_code == 200
            except httpx.HTTPError:
                return False

        await eventually(is_alive, "live without Redis")
        not_ready = await client.get("/health/ready")
        await eventually(lambda: worker.events("waiting for Redis"), "the worker waits")
        redis.restart()
        await stack.ready(api)
        await stack.ready(worker)
        answer = await client.post(
            "/v1/chat/completions", json=chat("Hello"), headers=stack.headers, timeout=30
        )

    assert not_ready.status_code == 503
    assert not_ready.json()["redis"] == "unavailable"
    assert answer.status_code == 200


async def test_one_request_id_finds_the_answer_the_worker_and_the_ledger_row(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack()
    headers = {"x-request-id": "trace-me-0123456789"}
    async with stack.client() as client:
        failed = await client.post(
            "/v1/chat/completions", json=chat(script({"status": 400})), headers=headers
        )
    rows = await eventually(stack.ledger, "the ledger row")

    assert failed.headers["x-request-id"] == headers["x-request-id"]
    assert [row["request_id"] for row in rows] == [headers["x-request-id"]]
    assert rows[0]["outcome"] == "failed"
    [line] = stack.log_events("job failed")
    assert line["request_id"] == headers["x-request-id"]


async def test_no_prompt_completion_or_key_is_ever_logged(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_LOG__LEVEL": "TRACE"})
    async with stack.client() as client:
        for body in (
            chat(CANARY),
            chat(CANARY, stream=True),
            chat(script({"status": 400, "error_message": CANARY}, CANARY)),
            chat(script({"status": 500, "error_message": CANARY}, CANARY)),
            chat(script({"garbage": "html"}, CANARY)),
            {**chat(CANARY), "temperature": CANARY},
        ):
            await client.post("/v1/chat/completions", json=body)
        await client.get("/v1/models", headers={"authorization": f"Bearer {stack.api_key}x"})
    await eventually(stack.ledger, "the ledger rows")

    written = "".join(stack.logs().values())
    assert "canary" not in written
    assert stack.api_key not in written
    assert stack.api_key[-20:] not in written


async def _cli(stack: Stack, *arguments: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cli", *arguments],
        env=stack.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def _content(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    chunk = json.loads(line.removeprefix("data: "))
    choices = chunk.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""
