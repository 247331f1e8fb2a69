"""Named points at which a process kills itself (-9), for chaos tests. Nothing when not armed.

FAULTPOINTS is a comma-separated list of `<point>@<n>`: die the n-th time the point is passed.
With `POISON@<n>` jobs harm the worker that calls their provider, as their request id says:
`poison-exit-` ends the process, `poison-block-` holds its loop for n seconds, and
`poison-memory-` takes all memory that it may have.

    W1 delivered, not begun         W5 after a flush of stream events
    W2 begun, not connected         W6 answer whole, not finished
    W3 request half sent            W7 finish sent, its reply not read
    W4 answer headers received      W8 finished
    W9 around a retry               W10 around a hand-back         W11 reclaimed, not begun
    W12 requests of a batch uploaded, the provider's batch not created     W13 created, not told
    W14 results of the provider's batch stored, not told
    A2 row committed, not queued    A3 queued, not answered        A6 key claimed, no job
    S1 in a promotion               S2 lost job, not queued again  S3 results kept, not taken off Redis
    S4 a page of a batch checked, or its lines marked as queued and only some of them queued
    S5 webhook sent, not marked    S6 step with a provider's batch noted, not queued
    S7 step ended, what follows not noted    S8 lines of a provider's batch billed, not ended
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_armed: dict[str, int] = {}


def arm(spec: str) -> None:
    """Raises ValueError on a malformed spec."""
    for item in filter(None, spec.split(",")):
        point, _, countdown = item.partition("@")
        _armed[point.strip()] = int(countdown or 1)


def is_well_formed(spec: str) -> bool:
    """Whether it can be armed; that alone arms nothing."""
    try:
        for item in filter(None, spec.split(",")):
            int(item.partition("@")[2] or 1)
    except ValueError:
        return False
    return True


def is_armed(point: str) -> bool:
    return point in _armed


def hit(point: str) -> None:
    if point not in _armed:
        return
    _armed[point] -= 1
    if _armed[point] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


def call(request_id: str) -> None:
    """W2, and the harm that the job itself does."""
    hit("W2")
    if "POISON" not in _armed:
        return
    if request_id.startswith("poison-exit-"):
        os._exit(1)
    if request_id.startswith("poison-block-"):
        time.sleep(_armed["POISON"])
    if request_id.startswith("poison-memory-"):
        hoard = bytearray()
        while len(hoard) < 1 << 30:  # where nothing limits it, a machine is spared
            hoard += bytes(1 << 24)


async def during(point: str, call: Coroutine[Any, Any, _T]) -> _T:
    """Await `call`; when armed, pass the point after it was sent and before it is answered."""
    if point not in _armed:
        return await call
    task = asyncio.ensure_future(call)
    # Three turns: the coroutine starts, its command is flushed, the socket is written.
    for _ in range(3):
        await asyncio.sleep(0)
    hit(point)
    return await task
