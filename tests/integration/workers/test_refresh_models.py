"""A worker asks providers for their lists: the scripted provider, and sockets that say other things."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from shared import keyspace
from shared.providers import anthropic, openai
from shared.providers.model_lists import LIST_SECONDS, HealthRecord, ModelLists, ProviderStatus
from shared.settings import ProviderSettings
from tests.fakes.eventually import eventually
from tests.fakes.provider import ScriptedProvider
from tests.integration.queue.support import Queue
from tests.integration.workers import support
from tests.integration.workers.raw_provider import (
    Behaviour,
    Exchange,
    answer,
    error,
    sends,
    sends_then_hangs,
    serving,
)
from tests.integration.workers.support import FAST, SECRET, Worker, open_connections
from workers.refresh_models import RETRY_SECONDS, keep_models, refresh

a_worker = partial(support.a_worker, provider=FAST)

LIST = b'{"object":"list","data":[{"id":"gpt-nine","object":"model","created":7,"owned_by":"x"}]}'
CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{"
ONLINE, DEGRADED, OFFLINE = ProviderStatus.ONLINE, ProviderStatus.DEGRADED, ProviderStatus.OFFLINE


async def names(queue: Queue) -> list[tuple[str, str]]:
    """As any process reads them."""
    lists = ModelLists(queue.link, ["openai", "anthropic"])
    await lists.look()
    return [(model.provider, model.id) for model in lists.models()]


async def seconds_left(queue: Queue, key: str) -> float:
    return int(await queue.link.execute("PTTL", key)) / 1000


async def make_due(queue: Queue) -> None:
    await queue.link.execute("DEL", keyspace.models_due("openai"))


async def refreshed(worker: Worker, provider: str = "openai") -> HealthRecord:
    record = await refresh(worker.context, worker.queue.link, provider)
    assert record is not None
    return record


async def test_lists_of_both_forms_are_stored_for_everybody_with_how_the_provider_did(
    queue: Queue, provider: ScriptedProvider
) -> None:
    secrets = {"openai": SECRET, "anthropic": SECRET}
    async with support.a_worker(queue, provider.url, secrets=secrets) as worker:
        records = [await refreshed(worker, name) for name in ("openai", "anthropic")]

        assert await names(queue) == [
            (name, model)
            for name in ("openai", "anthropic")
            for model in ("scripted-large", "scripted-small")
        ]
    for record in records:
        assert (record.status, record.error) == (ONLINE, None)
        assert record.latency_ms is not None
        assert record.listed_at == record.checked_at
    for key in (keyspace.models("openai"), keyspace.health("openai")):
        assert LIST_SECONDS - 60 < await seconds_left(queue, key) <= LIST_SECONDS


async def test_the_request_carries_the_credential_and_the_headers_of_the_profile(queue: Queue) -> None:
    async with serving(sends(answer(LIST))) as provider:
        secrets = {"anthropic": SECRET}
        async with a_worker(queue, provider.base_url, secrets=secrets) as worker:
            await refreshed(worker, "anthropic")

        exchange = await provider.exchange()
    assert exchange.head.startswith(b"GET /v1/v1/models?limit=1000 HTTP/1.1\r\n")
    assert exchange.headers["x-api-key"] == SECRET
    assert exchange.headers["anthropic-version"] == "2023-06-01"


async def test_of_several_workers_one_asks(queue: Queue) -> None:
    async with serving(sends(answer(LIST))) as provider, a_worker(queue, provider.base_url) as worker:
        asked = await asyncio.gather(*(refresh(worker.context, queue.link, "openai") for _ in range(20)))

        assert len([record for record in asked if record is not None]) == 1
        assert len(provider.exchanges) == 1


async def test_a_list_is_asked_for_again_when_it_is_due(queue: Queue) -> None:
    hourly = ProviderSettings(model_list_seconds=1_234)
    async with (
        serving(sends(answer(LIST))) as provider,
        support.a_worker(queue, provider.base_url, provider=hourly) as worker,
    ):
        await refreshed(worker)
        assert 1_200 < await seconds_left(queue, keyspace.models_due("openai")) <= 1_234
        assert await refresh(worker.context, queue.link, "openai") is None

        await make_due(queue)

        assert (await refreshed(worker)).status is ONLINE


FAILURES: dict[str, tuple[Behaviour, ProviderStatus, str]] = {
    "closed": (sends(b""), OFFLINE, "provider_unavailable"),
    "silent": (sends_then_hangs(), OFFLINE, "provider_timeout"),
    "half a list": (sends(CUT), OFFLINE, "provider_unavailable"),
    "broken": (sends(error(500)), OFFLINE, "provider_unavailable"),
    "overloaded": (sends(error(503)), OFFLINE, "provider_unavailable"),
    "refuses the key": (sends(error(401)), DEGRADED, "provider_credential_refused"),
    "limits us": (sends(error(429)), DEGRADED, "rate_limit_exceeded"),
    "redirects": (sends(error(302, headers=b"location: /x\r\n")), DEGRADED, ""),
    "no JSON": (sends(answer(b"<html>hello</html>")), DEGRADED, "invalid_response"),
    "no list": (sends(answer(b'{"object":"error"}')), DEGRADED, "invalid_response"),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), DEGRADED, "invalid_response"),
    "endless": (
        sends(answer(b" " * 9_000_000)), DEGRADED, "invalid_response",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
async def test_a_provider_that_fails_is_marked_and_asked_again_soon(queue: Queue, name: str) -> None:
    behave, status, code = FAILURES[name]
    async with serving(behave) as provider, a_worker(queue, provider.base_url) as worker:
        record = await refreshed(worker)

        assert open_connections(worker) == 0
    assert record.status is status
    assert not code or record.error == code
    assert record.error
    assert record.listed_at is None
    assert 0 < await seconds_left(queue, keyspace.models_due("openai")) <= RETRY_SECONDS
    stored = await queue.link.execute("GET", keyspace.health("openai"))
    assert HealthRecord.from_wire(stored) == record
    assert SECRET.encode() not in stored


async def test_a_provider_nobody_can_connect_to_is_offline(queue: Queue) -> None:
    async with serving(sends(b"")) as provider:
        url = provider.base_url
    async with a_worker(queue, url) as worker:
        record = await refreshed(worker)

    assert (record.status, record.error) == (OFFLINE, "provider_unavailable")


async def test_a_worker_without_the_key_says_so_and_calls_nobody(queue: Queue) -> None:
    async with (
        serving(sends(answer(LIST))) as provider,
        a_worker(queue, provider.base_url, secrets={"anthropic": SECRET}) as worker,
    ):
        record = await refreshed(worker, "openai")

        assert (record.status, record.error) == (DEGRADED, "provider_credential_refused")
        assert provider.exchanges == []


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_provider_that_keeps_no_list_is_online_without_one(queue: Queue, status: int) -> None:
    async with serving(sends(error(status))) as provider, a_worker(queue, provider.base_url) as worker:
        record = await refreshed(worker)

    assert (record.status, record.error, record.listed_at) == (ONLINE, None, None)
    assert await names(queue) == []


async def test_a_provider_whose_profile_has_no_list_is_not_asked(queue: Queue) -> None:
    profiles = {"openai": replace(openai.PROFILE, models_path=""), "anthropic": anthropic.PROFILE}
    async with (
        serving(sends(answer(LIST))) as provider,
        a_worker(queue, provider.base_url, profiles=profiles) as worker,
    ):
        assert await refresh(worker.context, queue.link, "openai") is None
        assert provider.exchanges == []


async def test_what_was_listed_stands_while_the_provider_is_away(queue: Queue) -> None:
    replies = [answer(LIST), error(500)]

    async def reply(exchange: Exchange) -> None:
        await exchange.send(replies.pop(0))
        exchange.writer.close()

    async with serving(reply) as provider, a_worker(queue, provider.base_url) as worker:
        before = await refreshed(worker)
        await make_due(queue)

        after = await refreshed(worker)

    assert after.status is OFFLINE
    assert after.listed_at == before.listed_at
    assert await names(queue) == [("openai", "gpt-nine")]


async def test_what_any_worker_found_is_in_the_catalogue_of_each(queue: Queue) -> None:
    async with serving(sends(answer(LIST))) as provider, a_worker(queue, provider.base_url) as worker:
        duty = asyncio.create_task(keep_models(worker.context, queue.link, ["openai"]), name="models")
        try:

            async def known() -> bool:
                return worker.context.catalogue.lister_of("gpt-nine") == "openai"

            await eventually(known, "the list in the catalogue", within=5)
        finally:
            duty.cancel()
            await asyncio.gather(duty, return_exceptions=True)
