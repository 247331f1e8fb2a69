"""An api process that may open no more files, which every connection is one of."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import psutil
import pytest

from tests.chaos import size
from tests.chaos.callers import Manner, ask, scripts, session_of
from tests.chaos.history import Ending
from tests.fakes.eventually import eventually
from tests.fixtures.stack import FreshStack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(120)]

SPARE: Final = 30
WATCH_SECONDS: Final = 2.0
BUSY_SHARE: Final = 0.25
"""Of one core: far more than idling takes, far less than spinning."""


async def test_an_api_without_free_descriptors_does_not_spin_and_serves_again_once_some_are_free(
    fresh_stack: FreshStack,
) -> None:
    broker = await fresh_stack()
    (api,) = broker.apis
    process = psutil.Process(api.pid)
    asks = scripts("descriptors", size.dice("descriptors"), Manner(streams=0, delay_ms=(0, 10)))
    async with session_of(broker.api_key) as connected, session_of(broker.api_key) as newcomer:
        assert (await ask(connected, api.url, next(asks))).ending is Ending.WHOLE
        limit = process.num_fds() + SPARE
        resource.prlimit(api.pid, resource.RLIMIT_NOFILE, (limit, limit))
        async with _connections(api.port, 2 * SPARE):
            await eventually(lambda: process.num_fds() >= limit, "every descriptor taken")
            busy, began = _cpu_seconds(process), time.monotonic()
            refused = await ask(newcomer, api.url, next(asks))
            served = await ask(connected, api.url, next(asks))
            await asyncio.sleep(WATCH_SECONDS)  # a look at an idle process takes as long as it takes
            share = (_cpu_seconds(process) - busy) / (time.monotonic() - began)
            lines = len(api.output().splitlines())
        freed = time.monotonic()

        async def is_served() -> bool:
            return (await ask(newcomer, api.url, next(asks))).ending is Ending.WHOLE

        await eventually(is_served, "an answer to a new connection")

    size.report(
        "no more descriptors", cpu_share=round(share, 3), served_after=round(time.monotonic() - freed, 3)
    )
    assert refused.ending is Ending.LOST
    assert served.ending is Ending.WHOLE, "who is connected already needs none"
    assert share < BUSY_SHARE
    assert lines < 2 * SPARE
    assert api.is_running


@asynccontextmanager
async def _connections(port: int, count: int) -> AsyncIterator[None]:
    """So many that say nothing, until the end of the block."""
    opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(count)))
    try:
        yield
    finally:
        for _, writer in opened:
            writer.close()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
