"""Settled jobs go from the usage stream into the database."""

from __future__ import annotations

import asyncio
from typing import Final

from loguru import logger
from redis.exceptions import RedisError

from scheduler.rounds import OnRound, unheard
from shared.accounting.ledger import LedgerWriter
from shared.db.engine import DATABASE_ERRORS

_BLOCK_MS: Final = 500
_GATHER_SECONDS: Final = 0.2
"""Pause between two batches, so that a row costs a share of a commit instead of a whole one."""


async def settle_usage(ledger: LedgerWriter, on_round: OnRound = unheard) -> None:
    """For ever. While the database is away the stream keeps what it has; nothing is acknowledged."""
    failures = 0
    while True:
        try:
            settled = await ledger.settle_once(_BLOCK_MS)
            failures = 0
            on_round(True)
        except (RedisError, *DATABASE_ERRORS) as exc:
            failures += 1
            on_round(False)
            if failures == 1 or failures % 20 == 0:
                logger.warning("usage not settled", error=type(exc).__name__, failures=failures)
            await asyncio.sleep(min(5.0, 0.1 * 2 ** min(failures, 6)))
        else:
            if settled:
                await asyncio.sleep(_GATHER_SECONDS)
