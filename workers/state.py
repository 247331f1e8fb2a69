"""How a worker does, for whoever probes it.

live   the event loop answers and the worker still comes round to reading; waiting for Redis is life
ready  it takes jobs: booted, not draining, its last read of the queue succeeded, Redis answers
"""

from __future__ import annotations

import asyncio
from typing import Final

from redis.exceptions import RedisError

from shared.observability import metrics
from shared.observability.metrics import Reading
from shared.observability.process_port import Answers
from shared.queue.redis_link import RedisLink
from shared.settings import Settings
from workers.stream_worker import StreamWorker

STALLED_SECONDS: Final = 60.0
"""Without having come round; a read that blocks and fails takes a few seconds."""
_PING_SECONDS: Final = 1.0


class WorkerState:
    def __init__(self, link: RedisLink, slots: int, *, region: str) -> None:
        self._link = link
        self._slots = slots
        self._region = region
        self.worker: StreamWorker | None = None
        """None until the queue was reached for the first time."""

    def answers(self, settings: Settings) -> Answers:
        page = self._page if settings.metrics_enabled else None
        return Answers(page, self.not_live, self.not_ready)

    async def not_live(self) -> str | None:
        # Draining, it comes round no more and waits for the jobs it has.
        if self.worker is None or self.worker.is_draining:
            return None
        stalled = self.worker.stalled_seconds
        return None if stalled < STALLED_SECONDS else f"has not looked for jobs for {stalled:.0f} s"

    async def not_ready(self) -> str | None:
        if self.worker is None or not self.worker.is_reading:
            return "waiting for Redis"
        if self.worker.is_draining:
            return "draining"
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._link.execute("PING")
        except (RedisError, OSError):
            return "Redis does not answer"
        return None

    async def _page(self) -> bytes:
        return metrics.render(
            readings=[
                *metrics.of_process("worker", ready=await self.not_ready() is None, region=self._region),
                Reading("gateway_worker_slots", self._slots),
                Reading("gateway_worker_jobs", 0 if self.worker is None else self.worker.running),
            ]
        )
