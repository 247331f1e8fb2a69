"""Five times more requests than can be served: most of what can be done is done, the rest is told at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import psutil
import pytest

from tests.chaos import size
from tests.chaos.callers import PATH, session_of
from tests.chaos.leases import SHORT
from tests.fakes.stack import Stack, start_apart

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

SLOTS: Final = 16
CALL_MS: Final = (200, 600)
"""Not all the same: else all slots would be free at once, and then none for as long as a call takes."""
CAPACITY: Final = SLOTS * 2000 / sum(CALL_MS)
"""Calls a second that the worker can make."""
DEADLINE_SECONDS: Final = 5.0
STEP_SECONDS: Final = 60.0 if size.is_full() else 8.0
CALM_AGAIN_SECONDS: Final = 10.0
CALM: Final = 0.5
"""Share of the capacity that is asked for before and after."""


@dataclass(frozen=True, slots=True)
class Told:
    """`began`, `ended`: time.monotonic()."""

    began: float
    ended: float
    status: int
    code: str
    retry_after: str | None
    should_retry: str | None

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    stack = Stack(
        workers=1,
        database_template=sqlite_template,
        settings={**SHORT, "HEADRACE_WORKER__SLOTS": str(SLOTS)},
    )
    start_apart(stack)
    yield stack
    stack.end_now()


async def test_at_five_times_the_load_what_can_be_served_is_served(broker: Stack) -> None:
    rng = size.dice("overload")

    async def ask_at(rate: float, *, for_seconds: float) -> list[Told]:
        return await _ask_at(session, broker.url, rate, rng, for_seconds=for_seconds)

    async with session_of(broker.api_key) as session:
        before = await ask_at(CALM * CAPACITY, for_seconds=4)
        resident = _resident(broker)
        overloading = asyncio.create_task(ask_at(5 * CAPACITY, for_seconds=STEP_SECONDS))
        await asyncio.sleep(STEP_SECONDS)  # what still waits then is in the way of the next ones
        grown = _resident(broker) - resident
        after = await ask_at(CALM * CAPACITY, for_seconds=CALM_AGAIN_SECONDS + 2)
        overload = await overloading

    ended = overload[0].began + STEP_SECONDS
    served = [told for told in overload if told.status == 200]
    goodput = sum(told.ended <= ended for told in served) / STEP_SECONDS
    refused = [told for told in overload if told.status in (429, 503)]
    calm_at = max((t.began for t in after if t.seconds > 1.5 * _at(before, 0.95)), default=after[0].began)
    size.report(
        "overload",
        capacity=CAPACITY,
        asked=len(overload),
        outcomes=Counter(f"{told.status} {told.code}" for told in overload),
        goodput_share=round(goodput / CAPACITY, 3),
        served_p99_ms=round(_at(served, 0.99) * 1000),
        refused_p50_ms=round(_at(refused, 0.5) * 1000, 1),
        refused_p99_ms=round(_at(refused, 0.99) * 1000, 1),
        grown_mb=round(grown / 2**20, 1),
        calm_after_seconds=round(calm_at - after[0].began, 2),
    )
    assert {told.status for told in before} == {200}
    # Of a short step a twentieth still runs at its end, and beside other tests a core is shared.
    assert goodput >= (0.9 if size.is_full() else 0.8) * CAPACITY
    assert _at(served, 0.99) <= DEADLINE_SECONDS + 0.25
    late = sum(told.status == 504 for told in overload)
    # Beside other tests a core is now and then not there that the estimate counted on. In half a second
    # the worker ends a hundredth of these; without the estimate two thirds of them would be late.
    assert late <= (0 if size.is_full() else len(overload) // 25), "timeouts in place of refusals"
    assert {told.status for told in overload} <= {200, 429, 503, 504}
    assert all(1 <= int(told.retry_after or 0) <= 60 and told.should_retry == "true" for told in refused)
    # Beside other tests the slowest hundredth says more of the machine.
    assert _at(refused, 0.99 if size.is_full() else 0.5) <= 0.02
    assert grown <= 100 * 2**20
    assert calm_at - after[0].began <= CALM_AGAIN_SECONDS


async def _ask_at(
    session: aiohttp.ClientSession, url: str, rate: float, rng: random.Random, *, for_seconds: float
) -> list[Told]:
    """So many a second, whether or not anybody answers; in the order they were sent."""
    told: list[Told] = []

    async def one() -> None:
        told.append(await _ask(session, url, rng.randint(*CALL_MS)))

    began, sent = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while time.monotonic() - began < for_seconds:
            due = int((time.monotonic() - began) * rate) + 1
            for _ in range(due - sent):
                group.create_task(one())
            sent = max(sent, due)
            await asyncio.sleep(max(0.001, began + sent / rate - time.monotonic()))
    return sorted(told, key=lambda one: one.began)


async def _ask(session: aiohttp.ClientSession, url: str, call_ms: int) -> Told:
    content = f'!script {{"before_headers_ms": {call_ms}}}\nSay it.'
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}]}
    began = time.monotonic()
    async with session.post(
        url + PATH, json=body, headers={"x-request-timeout": str(DEADLINE_SECONDS)}
    ) as answer:
        error = (await answer.json()).get("error") or {}
        headers = answer.headers
        return Told(
            began, time.monotonic(), answer.status, error.get("code") or "",
            headers.get("retry-after"), headers.get("x-should-retry"),
        )  # fmt: skip


def _at(told: list[Told], share: float) -> float:
    return sorted(one.seconds for one in told)[min(len(told) - 1, int(len(told) * share))]


def _resident(broker: Stack) -> int:
    """Bytes of the api and the worker together."""
    return sum(psutil.Process(p.pid).memory_info().rss for p in [*broker.apis, *broker.workers])
