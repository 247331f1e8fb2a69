"""How late the event loop of this process is: what one callback holds up, everything waits for."""

from __future__ import annotations

import asyncio
from typing import Final

from shared.observability import metrics

_EVERY_SECONDS: Final = 0.25


async def watch_loop() -> None:
    """For ever."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _EVERY_SECONDS
        await asyncio.sleep(_EVERY_SECONDS)
        metrics.observe_loop_lag(max(0.0, loop.time() - due))
