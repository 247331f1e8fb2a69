"""One delivery from lease to end: keys, retries, cancellation and what is left behind."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import orjson
import pytest

from shared.domain.job import JobKind, JobState, Target
from shared.domain.usage import Outcome, Usage
from shared.observability import metrics
from shared.providers import anthropic, openai, vllm
from shared.providers.profile import AccountLimits
from shared.providers.tokens import tokens_of_chars
from shared.queue.consumer import LeaseLost
from shared.settings import QueueSettings
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import PROVIDER, Queue, a_job, open_link
from tests.integration.workers.raw_provider import (
    COMPLETION,
    DONE,
    STOP_EVENT,
    STREAM_HEAD,
    Exchange,
    answer,
    chunk,
    error,
    event,
    sends,
    sends_then_hangs,
    serving,
)
from tests.integration.workers.support import SECRET, Worker, a_worker, failure, open_connections
from workers.in_flight import StopReason
from workers.run_job import run_job

HELLO = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
RETRIED = QueueSettings(max_attempts=3, retry_base_seconds=4, retry_cap_seconds=6)


async def test_an_answer_goes_back_as_it_came(queue: Queue) -> None:
    job = a_job()
    async with serving(sends(answer())) as provider, a_worker(queue, provider.base_url) as worker:
        result = await worker.run(job)
        exchange = await provider.exchange()

    assert result.body is not None
    assert b"hello back" in result.body
    assert exchange.headers["authorization"] == f"Bearer {SECRET}"
    assert exchange.headers["x-headrace-job-id"] == job.id
    assert exchange.headers["x-headrace-attempt"] == "1"
    assert exchange.headers["accept-encoding"] == "identity"
    ((_, settlement),) = await queue.usage()
    assert (settlement.usage.prompt_tokens, settlement.usage.completion_tokens) == (3, 2)


@pytest.mark.parametrize("kind", [JobKind.CHAT, JobKind.RESPONSES, JobKind.MESSAGES])
async def test_an_answer_without_usage_is_estimated_by_what_was_said_in_it(
    queue: Queue, kind: JobKind
) -> None:
    request: dict[str, object] = {"model": "m", "instructions": "Be kind. " * 5_000, "input": "hi"}
    if kind is not JobKind.RESPONSES:
        request = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    job = replace(a_job(body=orjson.dumps(request)), kind=kind)
    document = orjson.loads(COMPLETION)
    del document["usage"]
    document["choices"][0]["logprobs"] = {"content": [{"token": "hello", "logprob": -0.1}] * 100}
    uncounted = answer(orjson.dumps(document))

    async with serving(sends(uncounted)) as provider, a_worker(queue, provider.base_url) as worker:
        await worker.run(job)

    ((_, settlement),) = await queue.usage()
    assert settlement.usage.estimated
    assert settlement.usage.completion_tokens == tokens_of_chars(len("hello back"))


async def test_calls_one_after_the_other_share_a_connection(queue: Queue) -> None:
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url) as worker,
    ):
        for _ in range(5):
            await worker.run(a_job())

        assert len({id(exchange.writer) for exchange in provider.exchanges}) == 1


async def test_whole_streams_one_after_the_other_share_a_connection(queue: Queue) -> None:
    whole = sends(STREAM_HEAD + chunk(event() + STOP_EVENT + DONE) + chunk(b""), close=False)
    async with serving(whole) as provider, a_worker(queue, provider.base_url) as worker:
        for _ in range(5):
            await worker.run(a_job(stream=True))

        assert len({id(exchange.writer) for exchange in provider.exchanges}) == 1


@pytest.mark.parametrize(
    ("stream", "measured"),
    [(False, "gateway_provider_call_seconds"), (True, "gateway_time_to_first_token_seconds")],
)
async def test_a_wait_at_the_gate_counted_as_a_part_of_the_call(
    private_redis: RedisServer, stream: bool, measured: str
) -> None:
    metrics.know_providers([PROVIDER])
    limited = replace(openai.PROFILE, limits=AccountLimits(concurrent=1))
    whole = STREAM_HEAD + chunk(event() + STOP_EVENT + DONE) + chunk(b"") if stream else answer()
    async with (
        FaultProxy(private_redis.port) as proxy,
        open_link(f"redis://127.0.0.1:{proxy.port}/0") as link,
        serving(sends(whole)) as provider,
        a_worker(Queue(link, QueueSettings()), provider.base_url, profiles={PROVIDER: limited}) as worker,
    ):
        delivery = await worker.deliver(a_job(stream=stream))
        before, called = observed(measured), observed("gateway_provider_call_seconds", "count")
        # Of the permit that the gate takes there, too.
        proxy.delay_seconds = late = 0.5
        await run_job(worker.context, delivery)
        proxy.mend()
        ((_, settlement),) = await worker.queue.usage()

    assert settlement.outcome is Outcome.SUCCEEDED
    assert observed("gateway_provider_call_seconds", "count") == called + 1
    assert 0 < observed(measured) - before < late
    milliseconds = settlement.ttft_ms if stream else settlement.provider_ms
    assert milliseconds is not None
    assert milliseconds < late * 1000


def observed(metric: str, what: str = "sum") -> float:
    return metrics.REGISTRY.get_sample_value(f"{metric}_{what}", {"provider": PROVIDER}) or 0.0


async def test_a_redirect_takes_the_key_nowhere(queue: Queue) -> None:
    async with serving(sends(answer())) as other:
        location = f"location: {other.base_url}/chat/completions\r\n".encode()
        for status in (301, 302, 303, 307, 308):
            redirects = sends(error(status, headers=location))
            async with serving(redirects) as provider, a_worker(queue, provider.base_url) as worker:
                await worker.run(a_job())

        assert other.exchanges == []


async def test_two_providers_behind_one_address_are_called_with_a_key_each(queue: Queue) -> None:
    profiles = {profile.id: profile for profile in (openai.PROFILE, vllm.PROFILE, anthropic.PROFILE)}
    secrets = {"openai": "sk-openai", "vllm": "sk-vllm", "anthropic": "sk-anthropic"}
    async with (
        serving(sends(answer(), close=False)) as provider,
        a_worker(queue, provider.base_url, profiles=profiles, secrets=secrets) as worker,
    ):
        for name in ("openai", "vllm", "anthropic", "openai"):
            await worker.run(a_job(provider=name, body=HELLO))
        sent = [exchange.headers for exchange in provider.exchanges]

    assert [h.get("authorization") for h in sent] == [
        "Bearer sk-openai",
        "Bearer sk-vllm",
        None,
        "Bearer sk-openai",
    ]
    assert [h.get("x-api-key") for h in sent] == [None, None, "sk-anthropic", None]


async def test_a_key_bound_to_another_address_is_not_sent(queue: Queue) -> None:
    async with (
        serving(sends(answer())) as provider,
        a_worker(queue, "http://127.0.0.1:9/v1") as bound,
        a_worker(queue, provider.base_url) as worker,
    ):
        moved = replace(worker.context, credentials=bound.context.credentials)
        result = await Worker(queue, moved).run(a_job())

        assert failure(result).code == "provider_credential_refused"
        assert provider.exchanges == []


async def test_a_cookie_is_not_kept(queue: Queue) -> None:
    with_cookie = error(200, headers=b"set-cookie: a=b\r\n", body=b"{}")
    async with (
        serving(sends(with_cookie, close=False)) as provider,
        a_worker(queue, provider.base_url) as worker,
    ):
        for _ in range(2):
            await worker.run(a_job())

        assert "cookie" not in (await provider.exchange(1)).headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_that_may_pass_is_tried_again_within_full_jitter(queue: Queue, stream: bool) -> None:
    job = a_job(stream=stream)
    async with (
        serving(sends(error(500))) as provider,
        a_worker(queue, provider.base_url, settings=RETRIED) as worker,
    ):
        await worker.run_once(job)

        assert await queue.state(job) == JobState.QUEUED
        assert (await queue.fields(job))["attempts"] == "1"
        assert await worker.due_in_seconds(job) <= 4
        assert await queue.usage() == []


async def test_a_providers_retry_after_wins_over_jitter(queue: Queue) -> None:
    job = a_job()
    refusal = error(429, headers=b"retry-after: 17\r\n")
    async with (
        serving(sends(refusal)) as provider,
        a_worker(queue, provider.base_url, settings=RETRIED) as worker,
    ):
        await worker.run_once(job)

        assert 16 < await worker.due_in_seconds(job) <= 17


async def test_a_retry_after_beyond_the_deadline_ends_the_job_now(queue: Queue) -> None:
    job = a_job(budget_ms=5_000)
    refusal = error(429, headers=b"retry-after: 17\r\n")
    async with (
        serving(sends(refusal)) as provider,
        a_worker(queue, provider.base_url, settings=RETRIED) as worker,
    ):
        result = await worker.run(job)

    assert failure(result).code == "rate_limit_exceeded"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_a_failure_that_stays_is_not_tried_again(queue: Queue, status: int) -> None:
    async with (
        serving(sends(error(status))) as provider,
        a_worker(queue, provider.base_url, settings=RETRIED) as worker,
    ):
        result = await worker.run(a_job())

    assert result.head.attempts == 1


async def test_nothing_is_tried_again_once_its_reader_has_seen_a_part_of_it(queue: Queue) -> None:
    job = a_job(stream=True)
    cut = sends(STREAM_HEAD, chunk(event()))
    async with serving(cut) as provider, a_worker(queue, provider.base_url, settings=RETRIED) as worker:
        result = await worker.run(job)

    assert failure(result).code == "provider_unavailable"
    assert result.last == 1


async def test_the_last_attempt_is_final(queue: Queue) -> None:
    once = QueueSettings(max_attempts=1)
    async with (
        serving(sends(error(500))) as provider,
        a_worker(queue, provider.base_url, settings=once) as worker,
    ):
        result = await worker.run(a_job())

    assert failure(result).code == "provider_unavailable"


@pytest.mark.parametrize(
    ("parts", "stream"),
    [((), False), ((), True), ((STREAM_HEAD,), True), ((STREAM_HEAD, chunk(event())), True)],
    ids=["before the head of an answer", "of a stream", "before the first event", "mid stream"],
)
async def test_a_cancelled_call_closes_its_connection_at_once(
    queue: Queue, parts: tuple[bytes, ...], stream: bool
) -> None:
    job = a_job(stream=stream)
    async with serving(sends_then_hangs(*parts)) as provider, a_worker(queue, provider.base_url) as worker:
        task = asyncio.create_task(run_job(worker.context, await worker.deliver(job)))
        exchange = await provider.exchange()

        worker.context.in_flight.stop(job.id, StopReason.CANCELLED)

        async with asyncio.timeout(1):  # before any clock of the call
            await exchange.closed.wait()
            await task
        assert await queue.state(job) == JobState.CANCELLED
        assert open_connections(worker) == 0
        ((_, settlement),) = await queue.usage()
        assert settlement.outcome is Outcome.CANCELLED
        assert settlement.usage.estimated


def anthropic_event(**fields: object) -> bytes:
    return chunk(b"event: %b\ndata: %b\n\n" % (str(fields["type"]).encode(), orjson.dumps(fields)))


ANTHROPIC_START = anthropic_event(
    type="message_start",
    message={"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 25, "output_tokens": 1}},
)
ANTHROPIC_DELTAS = [
    anthropic_event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "word " * 800})
] * 5


@pytest.mark.parametrize("kind", [JobKind.CHAT, JobKind.MESSAGES])
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["cut", "cancelled"])
async def test_a_stream_that_anthropic_did_not_end_is_charged_for_what_came(
    queue: Queue, kind: JobKind, is_cancelled: bool
) -> None:
    body = b'{"model":"claude-opus-4-5","max_tokens":9000,"messages":[{"role":"user","content":"hi"}]}'
    job = replace(a_job(stream=True), kind=kind, plan=(Target("anthropic", "claude-opus-4-5"),), body=body)
    parts = (STREAM_HEAD, ANTHROPIC_START, *ANTHROPIC_DELTAS)
    behave = sends_then_hangs(*parts) if is_cancelled else sends(*parts)
    keys = {"anthropic": SECRET}
    async with serving(behave) as provider, a_worker(queue, provider.base_url, secrets=keys) as worker:
        task = asyncio.create_task(run_job(worker.context, await worker.deliver(job)))
        if is_cancelled:
            async with asyncio.timeout(5):
                while b"".join(await worker.events(job)).count(b"word " * 800) < 5:
                    pass
            worker.context.in_flight.stop(job.id, StopReason.CANCELLED)
        await task

    ((_, settlement),) = await queue.usage()
    assert settlement.usage == Usage(25, tokens_of_chars(5 * 4000), estimated=True)


async def test_running_usage_of_a_stream_that_broke_off_is_no_less_than_what_came(queue: Queue) -> None:
    running = b'"usage":{"prompt_tokens":9,"completion_tokens":1},"choices":['
    told = event("word " * 800).replace(b'"choices":[', running, 1)
    async with (
        serving(sends(STREAM_HEAD, chunk(told))) as provider,
        a_worker(queue, provider.base_url) as worker,
    ):
        await worker.run(a_job(stream=True))

    ((_, settlement),) = await queue.usage()
    assert settlement.usage == Usage(9, tokens_of_chars(4000), estimated=True)


async def test_a_stream_whose_caller_left_stops_with_its_next_event(queue: Queue) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD, chunk(event()))
        await gone.wait()
        await exchange.send(chunk(event()))
        await exchange.until_closed()

    gone = asyncio.Event()
    job = a_job(stream=True)
    async with serving(behave) as provider, a_worker(queue, provider.base_url) as worker:
        task = asyncio.create_task(run_job(worker.context, await worker.deliver(job)))
        await provider.exchange()
        assert await queue.producer.cancel(job) == "stopping"
        gone.set()
        await task

    assert await queue.state(job) == JobState.CANCELLED


async def test_cancelling_at_every_moment_leaks_no_connection(queue: Queue) -> None:
    rng = random.Random(11)

    async def behave(exchange: Exchange) -> None:
        for part in (STREAM_HEAD, *[chunk(event())] * 5, chunk(STOP_EVENT + DONE), chunk(b"")):
            await exchange.send(part)
            await asyncio.sleep(0)

    async with serving(behave) as provider, a_worker(queue, provider.base_url) as worker:
        for _ in range(20):
            jobs = [a_job(stream=True) for _ in range(15)]
            tasks = [asyncio.create_task(run_job(worker.context, await worker.deliver(job))) for job in jobs]
            for task in tasks:
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks)
            assert open_connections(worker) == 0
        assert len(worker.context.in_flight) == 0


async def test_a_worker_that_stops_hands_a_call_back_uncounted(queue: Queue) -> None:
    job = a_job()
    async with serving(sends_then_hangs()) as provider, a_worker(queue, provider.base_url) as worker:
        task = asyncio.create_task(run_job(worker.context, await worker.deliver(job)))
        await provider.exchange()

        task.cancel()
        await task

    assert await queue.state(job) == JobState.QUEUED
    assert (await queue.fields(job))["deliveries"] == "0"
    assert [d.job_id for d in await queue.consumer("other").reclaim(1)] == [job.id]


async def test_workers_that_stopped_while_they_began_a_job_were_counted_as_killed_by_it(
    queue: Queue,
) -> None:
    job = a_job()
    async with serving(sends_then_hangs()) as provider, a_worker(queue, provider.base_url) as worker:
        delivery = await worker.deliver(job)
        for ticks in range(12):
            task = asyncio.create_task(run_job(worker.context, delivery))
            for _ in range(ticks + 1):
                await asyncio.sleep(0)
            task.cancel()
            await task
            (delivery,) = await worker.consumer.reclaim(1)

    assert await queue.state(job) == JobState.QUEUED
    assert (await queue.fields(job))["deliveries"] == "0"


async def test_a_worker_that_stops_ends_a_stream_that_nobody_can_continue(queue: Queue) -> None:
    job = a_job(stream=True)
    behave = sends_then_hangs(STREAM_HEAD, chunk(event()))
    async with serving(behave) as provider, a_worker(queue, provider.base_url) as worker:
        task = asyncio.create_task(run_job(worker.context, await worker.deliver(job)))
        while not await worker.events(job):
            pass

        task.cancel()
        await task
        result = await queue.producer.result(job.id)

    assert not isinstance(result, JobState | None)
    assert failure(result).code == "stream_interrupted"


async def test_a_late_answer_is_refused_and_billed_to_nobody(queue: Queue) -> None:
    async def behave(exchange: Exchange) -> None:
        await thawed.wait()
        await exchange.send(answer())

    thawed = asyncio.Event()
    job = a_job()
    async with serving(behave) as provider, a_worker(queue, provider.base_url) as frozen:
        task = asyncio.create_task(run_job(frozen.context, await frozen.deliver(job)))
        await provider.exchange()
        await queue.make_idle(job, frozen.consumer)
        other = queue.consumer("other")
        (delivery,) = await other.reclaim(1)
        lease = await other.begin(delivery)
        assert lease is not None
        thawed.set()
        await task

        assert await queue.state(job) == JobState.RUNNING
        assert await queue.usage() == []
        await queue.finish(other, lease)
        with pytest.raises(LeaseLost):
            await queue.finish(other, lease, JobState.FAILED)


async def test_an_error_of_our_own_ends_the_job_and_says_nothing_of_it(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("canary")

    monkeypatch.setattr("workers.run_job.call_provider", explode)
    async with a_worker(queue, "http://127.0.0.1:9/v1") as worker:
        result = await worker.run(a_job(provider=PROVIDER))

    assert (failure(result).type, failure(result).status) == ("internal_error", 500)
    assert "canary" not in repr(result)
