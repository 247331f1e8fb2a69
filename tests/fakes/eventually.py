"""Waiting for what another process does: asked again and again, up to a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


class NeverCame(AssertionError):
    """What was waited for did not come in time."""


@overload
async def eventually(
    look: Callable[[], Awaitable[T]], what: str, *, within: float = ..., every: float = ...
) -> T: ...
@overload
async def eventually(look: Callable[[], T], what: str, *, within: float = ..., every: float = ...) -> T: ...
async def eventually(look: Callable[[], Any], what: str, *, within: float = 15.0, every: float = 0.02) -> Any:
    """The first truthy answer of `look`; raises NeverCame after `within` seconds."""
    give_up_at = time.monotonic() + within
    while True:
        answer = look()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > give_up_at:
            raise NeverCame(f"not within {within:g} s: {what}")
        await asyncio.sleep(every)
