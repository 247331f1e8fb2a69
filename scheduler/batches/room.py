"""How many more jobs of the batch lane a provider is given, and to whom.

An account alone may have all there is. Those that were refused lately share what becomes free: each
its part, those that wait longest first, and the rest whoever asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from shared.domain.job import Lane
from shared.ids import AccountId
from shared.queue.depth import measure
from shared.queue.redis_link import RedisLink

_KNOWN_SECONDS: Final = 0.25
_NONE_KNOWN_SECONDS: Final = 0.05
"""The same where nothing is left, so that a small window is not empty before it is filled again."""
_WAITS_SECONDS: Final = 2.0
"""Whoever has not asked again by then is not waited for."""


@dataclass(slots=True)
class _Waiting:
    since: float
    asked_at: float


@dataclass(slots=True)
class _Provider:
    """`free`: when it was measured; `taken`: of that, by account."""

    measured_at: float = float("-inf")
    free: int = 0
    taken: Counter[AccountId] = field(default_factory=Counter)
    waiting: dict[AccountId, _Waiting] = field(default_factory=dict)
    measuring: asyncio.Lock = field(default_factory=asyncio.Lock)


class Room:
    """Of all batches of this process together; what was measured is counted on from."""

    def __init__(
        self, link: RedisLink, *, most: int, shards: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._most = most
        self._shards = shards
        self._monotonic = monotonic
        self._providers: dict[str, _Provider] = {}

    async def take(self, provider: str, account: AccountId) -> bool:
        """Whether there was room for one more of that account. Raises RedisError."""
        known = self._providers.setdefault(provider, _Provider())
        async with known.measuring:
            known_for = _KNOWN_SECONDS if known.free > known.taken.total() else _NONE_KNOWN_SECONDS
            if self._monotonic() - known.measured_at > known_for:
                await self._measure(provider, known)
        now = self._monotonic()
        if known.free - known.taken.total() > _kept_for_others(known, account):
            known.taken[account] += 1
            known.waiting.pop(account, None)
            return True
        known.waiting.setdefault(account, _Waiting(now, now)).asked_at = now
        return False

    async def _measure(self, provider: str, known: _Provider) -> None:
        depths = await measure(self._link, [provider], shards=self._shards)
        held = sum(d.queued + d.in_flight for d in depths if d.lane is Lane.BATCH)
        known.measured_at = now = self._monotonic()
        known.free = max(0, self._most - held)
        known.taken.clear()
        known.waiting = {
            account: one for account, one in known.waiting.items() if now - one.asked_at <= _WAITS_SECONDS
        }


def _kept_for_others(known: _Provider, account: AccountId) -> int:
    sharing = known.waiting.keys() | known.taken.keys() | {account}
    part, more = divmod(known.free, len(sharing))
    longest_first = sorted(known.waiting, key=lambda one: known.waiting[one].since)
    return sum(
        max(0, part + (place < more) - known.taken[other])
        for place, other in enumerate(longest_first)
        if other != account
    )
