"""Retries that are due go back into their lanes, ten times a second."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from loguru import logger
from redis.exceptions import RedisError

from scheduler.rounds import OnRound, unheard
from shared.queue.delays import Delays
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings

_EVERY_SECONDS: Final = 0.1
_REFILL_EVERY: Final = 10


async def promote_retries(
    link: RedisLink, providers: Sequence[str], settings: QueueSettings, on_round: OnRound = unheard
) -> None:
    """For ever. Says which providers it promotes, so that workers leave those to it."""
    delays = Delays(link, settings)
    turn = 0
    failures = 0
    while True:
        try:
            await delays.promote_as_scheduler(providers)
            turn += 1
            if turn % _REFILL_EVERY == 0:
                await delays.refill(providers)
            failures = 0
        except (RedisError, OSError) as exc:
            failures += 1
            if failures == 1 or failures % 100 == 0:
                logger.warning("retries not promoted", error=type(exc).__name__, failures=failures)
        on_round(not failures)
        await asyncio.sleep(_EVERY_SECONDS if not failures else min(2.0, 0.1 * 2 ** min(failures, 5)))
