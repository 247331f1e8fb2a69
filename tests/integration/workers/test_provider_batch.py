"""Steps with a provider's own batch API, as a worker does them: each may be done twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.domain.job import Job, JobKind, Lane, Target
from shared.providers.batch_apis import BatchState, Told
from shared.providers.registry import BUILT_IN
from shared.queue.frames import Result
from shared.storage.folder import FolderStorage
from shared.storage.objects import Storage, new_key
from tests.fakes.provider import ScriptedProvider
from tests.integration.queue.support import Queue, a_job
from tests.integration.workers.support import Worker, a_worker, failure
from workers.run_job import run_job

PROVIDERS = ("openai", "anthropic")
MARK = "batch_1.0"


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    folder = FolderStorage(tmp_path / "files")
    yield folder
    await folder.aclose()


@pytest.fixture
async def fake(provider: ScriptedProvider) -> ScriptedProvider:
    await provider.clear()
    return provider


def at(queue: Queue, fake: ScriptedProvider, storage: Storage | None) -> Any:
    return a_worker(
        queue, fake.base_url, storage=storage, secrets=dict.fromkeys(PROVIDERS, "sk-of-the-broker")
    )


def a_step(provider: str, **said: Any) -> Job:
    return replace(
        a_job(body=orjson.dumps(said), lane=Lane.BATCH, provider=provider),
        kind=JobKind.PROVIDER_BATCH,
        plan=(Target(provider, ""),),
    )


async def stored(storage: Storage, provider: str, *texts: str) -> str:
    api = BUILT_IN[provider].batches
    assert api is not None
    endpoint = "/v1/messages" if provider == "anthropic" else "/v1/chat/completions"
    bodies = [
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}]} for text in texts
    ]
    requests = [api.request(f"line-{n}", endpoint, orjson.dumps(body)) for n, body in enumerate(bodies)]
    key = new_key()
    async with storage.open_writer(key) as writer:
        await writer.write(api.head + api.between.join(requests) + api.tail)
    return key


def a_submission(provider: str, key: str, **more: Any) -> Job:
    said: dict[str, Any] = {
        "step": "submit",
        "mark": MARK,
        "key": key,
        "endpoint": "/v1/messages" if provider == "anthropic" else "/v1/chat/completions",
        "requests": 2,
        "headers": {},
        "since": 0,
        "again": False,
        "others": [],
    }
    return a_step(provider, **said | more)


def a_poll(provider: str, batch: str, *, is_new: bool = False) -> Job:
    return a_step(provider, step="poll", id=batch, mark=MARK, since=0, is_new=is_new)


def told(result: Result) -> Told:
    assert result.head.error is None, result.head.error
    return Told.from_wire(result.body or b"")


async def read(storage: Storage, key: str) -> list[dict[str, Any]]:
    async with aclosing(storage.read(key)) as chunks:
        content = b"".join([chunk async for chunk in chunks])
    return [orjson.loads(line) for line in content.splitlines()]


def answered(lines: list[dict[str, Any]]) -> Mapping[str, Any]:
    return {line["custom_id"]: line.get("response") or line.get("result") or line["error"] for line in lines}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_requests_are_handed_over_asked_after_and_fetched(
    queue: Queue, fake: ScriptedProvider, storage: Storage, name: str
) -> None:
    await fake.script_batches(polls=1)
    async with at(queue, fake, storage) as worker:
        key = await stored(storage, name, "Hello", '!script {"status": 400}\nHello')
        created = told(await worker.run(a_submission(name, key)))
        running = told(await worker.run(a_poll(name, created.id)))
        ended = told(await worker.run(a_poll(name, created.id)))
        fetched = await worker.run(a_step(name, step="fetch", results=ended.results))
        lines = await read(storage, orjson.loads(fetched.body or b"")["key"])

    assert [one.state for one in (created, running, ended)] == [
        BatchState.RUNNING, BatchState.RUNNING, BatchState.ENDED,
    ]  # fmt: skip
    assert set(answered(lines)) == {"line-0", "line-1"}
    assert (created.mark, created.total) == (MARK, 2)
    assert running.mark == (MARK if name == "openai" else None)
    (batch,) = await fake.batches()
    assert batch["requests"] == ["line-0", "line-1"]
    assert fetched.head.prompt_tokens == fetched.head.completion_tokens == 0


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_batch_whose_creation_was_not_heard_of_is_found_again(
    queue: Queue, fake: ScriptedProvider, storage: Storage, name: str
) -> None:
    await fake.script_batches(failures=[{"on": "create", "status": 500, "after": True}])
    async with at(queue, fake, storage) as worker:
        key = await stored(storage, name, "Hello", "Hello")
        lost = failure(await worker.run(a_submission(name, key)))
        found = told(await worker.run(a_submission(name, key, again=True)))

    (batch,) = await fake.batches()
    assert (lost.code, found.id) == ("provider_unavailable", batch["id"])


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_step_that_was_given_back_looks_for_what_it_may_have_done(
    queue: Queue, fake: ScriptedProvider, storage: Storage, name: str
) -> None:
    async with at(queue, fake, storage) as worker:
        key = await stored(storage, name, "Hello", "Hello")
        created = told(await worker.run(a_submission(name, key)))
        job = a_submission(name, key)
        lease = await worker.consumer.begin(await worker.deliver(job))
        assert lease is not None
        await worker.consumer.hand_back(lease)
        (again,) = await worker.consumer.reclaim(1)
        await run_job(worker.context, again)
        result = await queue.producer.result(job.id)

    assert isinstance(result, Result)
    assert told(result).id == created.id
    assert len(await fake.batches()) == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_looking_for_a_batch_creates_none(
    queue: Queue, fake: ScriptedProvider, storage: Storage, name: str
) -> None:
    said = {"mark": MARK, "requests": 2, "since": 0, "others": []}
    async with at(queue, fake, storage) as worker:
        nothing = await worker.run(a_step(name, step="find", **said))
        created = told(await worker.run(a_submission(name, await stored(storage, name, "a", "b"))))
        found = told(await worker.run(a_step(name, step="find", **said)))

    assert (nothing.head.error, nothing.body) == (None, b"null")
    assert found.id == created.id
    assert len(await fake.batches()) == 1


async def test_of_two_batches_of_one_mark_the_first_stays_and_the_other_is_cancelled(
    queue: Queue, fake: ScriptedProvider, storage: Storage
) -> None:
    await fake.script_batches(held=True)
    async with at(queue, fake, storage) as worker:
        key = await stored(storage, "openai", "Hello", "Hello")
        first = told(await worker.run(a_submission("openai", key)))
        # As a worker does that froze before it created one: what it looked for was not there.
        await worker.run(a_submission("openai", key, mark="other"))
        await _remark(fake, worker, first)
        found = told(await worker.run(a_submission("openai", key)))
        polled = told(await worker.run(a_poll("openai", first.id, is_new=True)))

    assert found.id == polled.id == first.id
    assert [batch["status"] for batch in await fake.batches()] == ["in_progress", "cancelled"]


async def _remark(fake: ScriptedProvider, worker: Worker, like: Told) -> None:
    """The last batch gets the mark of another."""
    last = (await fake.batches())[-1]
    await fake.remark_batch(last["id"], {"headrace_batch": like.mark})


async def test_a_batch_of_another_number_of_requests_is_not_taken_for_ours(
    queue: Queue, fake: ScriptedProvider, storage: Storage
) -> None:
    async with at(queue, fake, storage) as worker:
        three = await stored(storage, "anthropic", "a", "b", "c")
        await worker.run(a_submission("anthropic", three, requests=3))
        two = await stored(storage, "anthropic", "a", "b")
        first = told(await worker.run(a_submission("anthropic", two, again=True)))
        taken = told(await worker.run(a_submission("anthropic", two, again=True, others=[first.id])))
        later = told(await worker.run(a_submission("anthropic", two, again=True, since=4_000_000_000)))

    assert len({first.id, taken.id, later.id}) == 3
    assert [len(batch["requests"]) for batch in await fake.batches()] == [3, 2, 2, 2]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_cancelled_batch_keeps_what_was_answered_and_one_that_ended_is_told_as_it_is(
    queue: Queue, fake: ScriptedProvider, storage: Storage, name: str
) -> None:
    await fake.script_batches(held=True, answers=1)
    async with at(queue, fake, storage) as worker:
        key = await stored(storage, name, "Hello", "Hello")
        created = told(await worker.run(a_submission(name, key)))
        cancelled = told(await worker.run(a_step(name, step="cancel", id=created.id)))
        again = told(await worker.run(a_step(name, step="cancel", id=created.id)))
        gone = told(await worker.run(a_step(name, step="cancel", id="batch_none")))
        fetched = await worker.run(a_step(name, step="fetch", results=cancelled.results))
        lines = await read(storage, orjson.loads(fetched.body or b"")["key"])

    assert cancelled == again
    assert (cancelled.state, gone.state) == (BatchState.ENDED, BatchState.FAILED)
    assert "You said: Hello" in str(answered(lines)["line-0"])
    assert "cancel" in str(answered(lines)["line-1"])


@pytest.mark.parametrize(
    ("failing", "status", "code"),
    [
        ({"on": "list", "status": 503}, 503, "provider_unavailable"),
        ({"on": "upload", "status": 500}, 502, "provider_unavailable"),
        ({"on": "create", "status": 401}, 502, "provider_credential_refused"),
        ({"on": "create", "status": 400}, 400, None),
    ],
)
async def test_a_step_that_its_provider_refuses_fails_as_any_call_does(
    queue: Queue,
    fake: ScriptedProvider,
    storage: Storage,
    failing: dict[str, Any],
    status: int,
    code: str | None,
) -> None:
    await fake.script_batches(failures=[failing])
    async with at(queue, fake, storage) as worker:
        key = await stored(storage, "openai", "Hello", "Hello")
        error = failure(await worker.run(a_submission("openai", key)))

    assert error.status == status
    assert code is None or error.code == code
    assert await fake.batches() == []


async def test_a_worker_that_does_not_see_the_storage_says_so(
    queue: Queue, fake: ScriptedProvider, storage: Storage
) -> None:
    async with at(queue, fake, storage) as worker:
        missing = failure(await worker.run(a_submission("openai", new_key())))
    async with at(queue, fake, None) as worker:
        none = failure(await worker.run(a_submission("openai", new_key())))

    assert "storage" in missing.message
    assert "storage" in none.message
