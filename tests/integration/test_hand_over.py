"""Hand-overs to providers in both databases: one scheduler goes on, files are split and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.duties.expire_files import ORPHAN_AGE, expire_files
from scheduler.hand_over.build import BETWEEN, PartWriting
from scheduler.hand_over.requests import BatchRequest, request_of, target_of
from shared.batches.handed_over import HandedOver, Part, PartStep, Phase
from shared.clock import ManualClock, SystemClock
from shared.db.engine import create_engine, writing
from shared.db.repositories import accounts, batches
from shared.db.repositories.batches import Batch
from shared.domain.batch import BatchStatus, line_id_of, row_of
from shared.domain.job import Job, JobKind, Target
from shared.ids import AccountId, BatchId
from shared.providers import anthropic, deepseek, openai
from shared.providers.batch_apis.openai import OpenAiBatches
from shared.storage.folder import FolderStorage
from shared.storage.objects import new_key
from tests.integration.queue.support import a_job
from tests.integration.test_batches import a_batch, a_line, found

ACME = AccountId("acme")
BATCH = BatchId("batch_1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(database_url: str, clock: ManualClock) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    async with writing(engine) as connection:
        await accounts.ensure(connection, ACME, name="Acme", at=clock.now())
    yield engine
    await engine.dispose()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[FolderStorage]:
    folder = FolderStorage(tmp_path / "files")
    yield folder
    await folder.aclose()


async def begun(database: AsyncEngine, batch: Batch, handed: HandedOver, clock: ManualClock) -> None:
    async with writing(database) as connection:
        assert await batches.change(
            connection, batch, BatchStatus.IN_PROGRESS, at=clock.now(), handed_over=handed.to_fields()
        )


def a_chat(ordinal: int, text: str = "Hello", *, model: str = "gpt-4o") -> Job:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    plan = (Target("deepseek", "deepseek-chat"), Target("openai", model), Target("anthropic", model))
    return replace(a_job(body=orjson.dumps(body)), plan=plan, row=row_of(BATCH, ordinal))


def a_request(job: Job) -> BatchRequest:
    target = target_of(job, "openai", "default")
    assert target is not None
    made = request_of(job, orjson.loads(job.body), target, openai.PROFILE)
    assert isinstance(made, BatchRequest)
    return made


async def content(storage: FolderStorage, key: str) -> list[bytes]:
    async with aclosing(storage.read(key)) as chunks:
        return b"".join([chunk async for chunk in chunks]).splitlines()


async def test_of_schedulers_that_go_on_with_the_same_one_does(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    batch = await a_batch(database, storage, a_line("a"), at=clock.now())
    handed = HandedOver(Phase.RESERVING, "openai", "default")
    await begun(database, batch, handed, clock)

    async def go_on(phase: Phase) -> bool:
        onward = replace(handed, phase=phase, version=1)
        async with writing(database) as connection:
            return await batches.hand_over(connection, batch.id, onward.to_fields(), version=0)

    outcomes = await asyncio.gather(*(go_on(Phase.BUILDING) for _ in range(5)))

    row = await found(database, batch.id)
    assert sorted(outcomes) == [False] * 4 + [True]
    assert HandedOver.of(row.handed_over or {}) == replace(handed, phase=Phase.BUILDING, version=1)
    assert not await go_on(Phase.OVER)


async def test_what_a_hand_over_still_needs_is_not_swept(
    database: AsyncEngine, storage: FolderStorage, clock: ManualClock
) -> None:
    keys = [new_key() for _ in range(5)]
    for key in keys:
        async with storage.open_writer(key) as writer:
            await writer.write(b"x")
    needed = Part(keys[0], keys[1], "/v1/chat/completions", 1, step=PartStep.MAP, results_key=keys[2])
    done = Part(keys[3], keys[4], "/v1/chat/completions", 1, step=PartStep.DONE)
    batch = await a_batch(database, storage, a_line("a"), at=clock.now())
    await begun(database, batch, HandedOver(Phase.RUNNING, "openai", parts=(needed, done)), clock)
    later = ManualClock(SystemClock().now() + ORPHAN_AGE + timedelta(hours=1))

    removed = await expire_files(database, storage, clock=later)
    left = [key async for key in storage.keys_before(later.now() + timedelta(days=1))]

    assert removed["orphans"] == 2
    assert set(keys[:3]) <= set(left)
    assert not set(keys[3:]) & set(left)


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [({"max_requests": 3}, [3, 3, 1]), ({"max_bytes": 500}, [2, 2, 2, 1]), ({}, [7])],
    ids=["requests", "bytes", "neither"],
)
async def test_what_is_too_large_for_one_batch_there_becomes_several(
    storage: FolderStorage, limits: dict[str, int], sizes: list[int]
) -> None:
    api = OpenAiBatches()
    for name, value in limits.items():
        setattr(api, name, value)
    jobs = [a_chat(n) for n in range(1, 8)]
    writing_parts = PartWriting(storage, api)
    for job in jobs:
        assert await writing_parts.add(a_request(job))
    parts = await writing_parts.ended()

    requests = [await content(storage, part.requests_key) for part in parts]
    kept = [await content(storage, part.jobs_key) for part in parts]
    assert [part.requests for part in parts] == [len(lines) for lines in requests] == sizes
    assert all(sum(len(line) + 1 for line in lines) <= api.max_bytes for lines in requests)
    names = [orjson.loads(line)["custom_id"] for lines in requests for line in lines]
    assert names == [line_id_of(BATCH, n) for n in range(1, 8)]
    read = [Job.from_wire(*line.split(BETWEEN)) for lines in kept for line in lines]
    assert [(job.id, job.plan) for job in read] == [(job.id, (Target("openai", "gpt-4o"),)) for job in jobs]


async def test_what_is_being_written_is_dropped_where_building_fails(storage: FolderStorage) -> None:
    writing_parts = PartWriting(storage, OpenAiBatches())
    try:
        await writing_parts.add(a_request(a_chat(1)))
        raise ValueError
    except ValueError:
        await writing_parts.dropped()

    later = SystemClock().now() + timedelta(days=1)
    assert [key async for key in storage.keys_before(later)] == []
    assert await storage.remove_unfinished(later) == 0


def test_a_request_is_what_its_job_would_have_sent_there() -> None:
    job = a_chat(7, model="claude-haiku-4-5")

    there = request_of(job, orjson.loads(job.body), job.plan[2], anthropic.PROFILE)

    assert isinstance(there, BatchRequest)
    said = orjson.loads(there.text)
    assert said["custom_id"] == line_id_of(BATCH, 7)
    assert said["params"]["max_tokens"] > 0
    assert "stream" not in said["params"]
    assert there.job.plan == (Target("anthropic", "claude-haiku-4-5"),)


def test_a_provider_or_a_kind_without_batches_has_no_request() -> None:
    job = a_chat(1)
    summary = replace(job, kind=JobKind.RERANK, body=b'{"model":"m","query":"q","documents":["d"]}')

    assert request_of(job, {}, job.plan[0], deepseek.PROFILE) is None
    refused = request_of(summary, {}, job.plan[1], openai.PROFILE)
    assert not isinstance(refused, BatchRequest)
    assert target_of(job, "openai", "other") is None
