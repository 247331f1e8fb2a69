"""How a scheduler does, for whoever probes it.

live   the event loop answers and the quickest duty still comes round, whether it succeeds or not
ready  it does its duties: not stopping, and Redis answers
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final

from redis.exceptions import RedisError

from scheduler.backlogs import BacklogReader
from scheduler.rounds import OnRound
from shared.observability import metrics
from shared.observability.metrics import Duty
from shared.observability.process_port import Answers
from shared.queue.redis_link import RedisLink
from shared.settings import Settings

STALLED_SECONDS: Final = 60.0
"""Without a round of a duty that has ten a second, and one in a few seconds while Redis is away."""
_QUICKEST: Final = Duty.PROMOTE
_PING_SECONDS: Final = 1.0


class SchedulerState:
    def __init__(
        self, link: RedisLink, backlogs: BacklogReader, stopped: asyncio.Event, *, region: str
    ) -> None:
        self._link = link
        self._region = region
        self._backlogs = backlogs
        self._stopped = stopped
        self._came_round_at = time.monotonic()
        metrics.expect_duties()

    def of(self, duty: Duty) -> OnRound:
        return partial(self._on_round, duty)

    def answers(self, settings: Settings) -> Answers:
        page = self._page if settings.metrics_enabled else None
        return Answers(page, self.not_live, self.not_ready)

    async def not_live(self) -> str | None:
        stalled = time.monotonic() - self._came_round_at
        if self._stopped.is_set() or stalled < STALLED_SECONDS:
            return None
        return f"no duty has come round for {stalled:.0f} s"

    async def not_ready(self) -> str | None:
        if self._stopped.is_set():
            return "stopping"
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._link.execute("PING")
        except (RedisError, OSError):
            return "Redis does not answer"
        return None

    def _on_round(self, duty: Duty, succeeded: bool) -> None:
        if duty is _QUICKEST:
            self._came_round_at = time.monotonic()
        metrics.count_round(duty, succeeded=succeeded)

    async def _page(self) -> bytes:
        found = await self._backlogs.look()
        ready = await self.not_ready() is None
        return metrics.render(
            readings=[*metrics.of_process("scheduler", ready=ready, region=self._region), *found]
        )
