"""A job whose target fails goes on to the next one of its plan, as long as its caller has seen nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import orjson
import pytest

from shared import keyspace
from shared.domain.job import FallbackOn, Job, JobState, Lane, Target
from shared.queue.consumer import Consumer
from shared.settings import ProviderSettings, QueueSettings
from tests.fakes.eventually import eventually
from tests.integration.queue.support import Queue, a_job
from tests.integration.workers.raw_provider import (
    STREAM_HEAD,
    chunk,
    error,
    event,
    sends,
    sends_then_hangs,
    serving,
)
from tests.integration.workers.support import CALM, a_worker, failure
from workers.run_job import run_job

PREAMBLE = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'  # noqa: E501
TOO_LONG = b'{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}'
ONE_TRY = QueueSettings(max_attempts=1, max_wait_seconds=60)


def two_targets(*, stream: bool = False, fallback_on: Iterable[FallbackOn] = ()) -> Job:
    plan = (Target("openai", "m"), Target("anthropic", "claude"))
    return replace(a_job(stream=stream), plan=plan, fallback_on=frozenset(fallback_on))


async def lane_of(queue: Queue, provider: str) -> list[bytes]:
    rows = await queue.link.execute("XRANGE", keyspace.lane(0, provider, Lane.INTERACTIVE), "-", "+")
    return [fields[1] for _, fields in rows]


@pytest.mark.parametrize("status", [500, 503, 529, 429, 401, 402])
async def test_what_fails_here_goes_on_there(queue: Queue, status: int) -> None:
    job = two_targets()
    async with (
        serving(sends(error(status))) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY) as worker,
    ):
        await worker.run_once(job)

    assert await lane_of(queue, "anthropic") == [job.id.encode()]
    assert await lane_of(queue, "openai") == []
    assert await queue.state(job) == JobState.QUEUED
    fields = await queue.fields(job)
    assert (fields["hop"], fields["hop_attempts"], fields["attempts"]) == ("1", "0", "1")
    assert await queue.usage() == []


async def test_at_its_next_target_a_job_asks_for_the_model_there(queue: Queue) -> None:
    job = two_targets()
    async with (
        serving(sends(error(500))) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY) as worker,
    ):
        await worker.run_once(job)

    other = Consumer(queue.link, ONE_TRY, "other", ["anthropic"])
    (delivery,) = await queue.read(other)
    lease = await other.begin(delivery)

    assert lease is not None
    assert lease.job.target == job.plan[1]
    assert orjson.loads(lease.job.body)["model"] == "claude"
    assert lease.failures == ("openai/m: OpenAI failed to answer (500).",)


async def test_when_all_targets_failed_the_caller_is_told_what_each_said(queue: Queue) -> None:
    plan = (Target("openai", "m"), Target("openai", "n"))
    job = replace(a_job(), plan=plan)
    async with (
        serving(sends(error(500))) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY) as worker,
    ):
        await worker.run_once(job)
        (delivery,) = await queue.read(worker.consumer)
        await run_job(worker.context, delivery)
        result = await queue.producer.result(job.id)

    refusal = failure(result)  # type: ignore[arg-type]  # an outcome the test expects to have failed
    assert (refusal.code, refusal.status) == ("all_providers_failed", 502)
    assert refusal.details["failures"] == [
        "openai/m: OpenAI failed to answer (500).",
        "openai/n: OpenAI failed to answer (500).",
    ]
    ((_, settlement),) = await queue.usage()
    assert (settlement.model, settlement.attempts) == ("n", 2)


@pytest.mark.parametrize(("wishes", "moves"), [({FallbackOn.CONTEXT_LENGTH}, True), (set(), False)])
async def test_a_prompt_too_long_for_one_model_moves_on_if_its_plan_says_so(
    queue: Queue, wishes: set[FallbackOn], moves: bool
) -> None:
    job = two_targets(fallback_on=wishes)
    async with (
        serving(sends(error(400, body=TOO_LONG))) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY) as worker,
    ):
        await worker.run_once(job)

    assert await queue.state(job) == (JobState.QUEUED if moves else JobState.FAILED)


async def test_a_stream_that_breaks_before_its_first_word_goes_on_elsewhere(queue: Queue) -> None:
    job = two_targets(stream=True)
    async with (
        serving(sends(STREAM_HEAD, chunk(PREAMBLE))) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY) as worker,
    ):
        await worker.run_once(job)
        assert await worker.events(job) == []

    assert await queue.state(job) == JobState.QUEUED
    assert await lane_of(queue, "anthropic") == [job.id.encode()]


async def test_a_stream_that_breaks_after_its_first_word_ends_with_an_error(queue: Queue) -> None:
    job = two_targets(stream=True)
    async with (
        serving(sends(STREAM_HEAD, chunk(PREAMBLE), chunk(event("word")))) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY) as worker,
    ):
        result = await worker.run(job)
        assert len(await worker.events(job)) == 2

    assert failure(result).code == "provider_unavailable"


async def test_words_held_back_are_forgotten_when_their_provider_fails_in_time(queue: Queue) -> None:
    job = two_targets(stream=True)
    async with (
        serving(sends(STREAM_HEAD, chunk(event("word")))) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY, provider=holding(30)) as worker,
    ):
        await worker.run_once(job)
        assert await worker.events(job) == []

    assert await queue.state(job) == JobState.QUEUED


async def test_words_held_back_go_on_when_their_time_is_over(queue: Queue) -> None:
    job = two_targets(stream=True)
    async with (
        serving(sends_then_hangs(STREAM_HEAD, chunk(event("one")), chunk(event("two")))) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY, provider=holding(0.1)) as worker,
    ):
        running = asyncio.create_task(worker.run_once(job))

        async def has_come() -> bool:
            return len(await worker.events(job)) == 2

        await eventually(has_come, "both words")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_stream_shorter_than_the_hold_arrives_whole(queue: Queue) -> None:
    job = two_targets(stream=True)
    whole = (chunk(event("one")), chunk(event("", finish_reason='"stop"') + b"data: [DONE]\n\n"), chunk(b""))
    async with (
        serving(sends(STREAM_HEAD, *whole)) as provider,
        a_worker(queue, provider.base_url, settings=ONE_TRY, provider=holding(30)) as worker,
    ):
        result = await worker.run(job)
        assert len(await worker.events(job)) == 2

    assert result.head.outcome == "succeeded"


def holding(seconds: float) -> ProviderSettings:
    return CALM.model_copy(update={"hold_back_seconds": seconds})
