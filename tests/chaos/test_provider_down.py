"""A provider that answers nothing but 500 for a while: what it is still sent, and what callers notice."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from shared.domain.conditions import BreakerState
from tests.chaos import size
from tests.chaos.callers import PATH, session_of
from tests.fakes.eventually import eventually
from tests.fakes.provider import CallRecord, ScriptedProvider
from tests.fakes.stack import Stack, start_apart

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

RESET_SECONDS: Final = 30.0 if size.is_full() else 2.0
DOWN_SECONDS: Final = 300.0 if size.is_full() else 10.0
RATE: Final = 15.0
"""Requests a second of each kind: with a fallback, and without."""
FALLBACK: Final = {"x-headrace-fallback-models": "anthropic/claude-haiku-4-5"}
BREAKERS: Final = {
    "HEADRACE_BREAKER__FAIL_MAX": "5",
    "HEADRACE_BREAKER__WINDOW_CALLS": "20",
    "HEADRACE_BREAKER__RESET_SECONDS": str(RESET_SECONDS),
}


@dataclass(frozen=True, slots=True)
class Told:
    """`began_at`, `ended_at`: Unix seconds."""

    began_at: float
    ended_at: float
    status: int
    code: str
    retry_after: str | None

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


@pytest.fixture(scope="module")
def shaky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedProvider]:
    """The one provider that goes down."""
    provider = ScriptedProvider(log=tmp_path_factory.mktemp("shaky") / "calls.jsonl")
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def broker(sqlite_template: Path, shaky: ScriptedProvider) -> Iterator[Stack]:
    settings = {**BREAKERS, "OPENAI_BASE_URL": f"{shaky.url}/openai/v1"}
    stack = Stack(workers=2, database_template=sqlite_template, settings=settings)
    start_apart(stack)
    yield stack
    stack.end_now()


async def test_a_provider_that_is_down_is_left_alone_and_taken_up_again(
    broker: Stack, shaky: ScriptedProvider
) -> None:
    alone: list[Told] = []
    with_fallback: list[Told] = []
    over = asyncio.Event()
    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as load:
        assert (await _ask(session, broker.url, {})).status == 200
        await shaky.script({"status": 500}, repeat=True)
        went_down = time.time()
        load.create_task(_keep_asking(session, broker.url, {}, alone, over))
        load.create_task(_keep_asking(session, broker.url, FALLBACK, with_fallback, over))
        await eventually(lambda: _breaker(session, broker.url), "an open breaker", within=10)
        open_at = time.time()
        await asyncio.sleep(went_down + DOWN_SECONDS - open_at)  # as long as the fault lasts
        failed = await shaky.calls()
        await shaky.clear()
        came_back = time.time()
        await eventually(lambda: _is_well(alone, since=came_back), "answers", within=RESET_SECONDS + 10)
        over.set()

    submitted = [told for told in alone + with_fallback if told.began_at < came_back]
    probes = [call for call in failed if call.open_at > open_at + 0.5]
    refused = [told for told in alone if told.status == 503 and open_at < told.began_at < came_back]
    unwell = [told.ended_at for told in alone if told.began_at > came_back and told.status != 200]
    well_after = max(unwell, default=came_back) - came_back
    size.report(
        "provider down",
        down_seconds=DOWN_SECONDS,
        submitted=len(submitted),
        calls=len(failed),
        probes=len(probes),
        open_after_seconds=round(open_at - went_down, 2),
        well_after_seconds=round(well_after, 2),
        refused_median_ms=round(statistics.median(told.seconds for told in refused) * 1000, 1),
        alone=Counter(f"{told.status} {told.code}" for told in alone),
        with_fallback=Counter(f"{told.status} {told.code}" for told in with_fallback),
    )
    assert len(failed) <= 1.2 * len(submitted)
    assert len(probes) <= DOWN_SECONDS / RESET_SECONDS + 1, "one of the whole fleet each time"
    assert not _overlapping(probes)
    assert well_after <= RESET_SECONDS + 2
    assert {told.status for told in with_fallback} == {200}
    assert {told.code for told in alone if told.status != 200} == {"provider_unavailable"}
    assert statistics.median(told.seconds for told in refused) <= 0.05
    assert all(1 <= int(told.retry_after or 0) <= 60 for told in refused)


async def _ask(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> Told:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    began_at = time.time()
    async with session.post(url + PATH, json=body, headers=headers) as answer:
        document = await answer.json()
        error = document.get("error") or {}
        return Told(
            began_at, time.time(), answer.status, error.get("code") or "", answer.headers.get("retry-after")
        )


async def _keep_asking(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], told: list[Told], over: asyncio.Event
) -> None:
    """At RATE, whether or not anybody answers."""

    async def one() -> None:
        told.append(await _ask(session, url, headers))

    began, sent = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while not over.is_set():
            group.create_task(one())
            sent += 1
            await asyncio.sleep(max(0.0, began + sent / RATE - time.monotonic()))


async def _breaker(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(f"{url}/api/v1/providers/openai") as answer:
        return bool((await answer.json())["breaker"] == BreakerState.OPEN)


def _is_well(told: list[Told], *, since: float) -> bool:
    """A second's worth of answers in a row."""
    last = [one for one in told if one.began_at > since][-int(RATE) :]
    return len(last) == int(RATE) and all(one.status == 200 for one in last)


def _overlapping(calls: list[CallRecord]) -> list[int]:
    """Those that began while the one before still ran."""
    ordered = sorted(calls, key=lambda call: call.open_at)
    return [
        later.call
        for earlier, later in itertools.pairwise(ordered)
        if earlier.close_at is None or later.open_at < earlier.close_at
    ]
