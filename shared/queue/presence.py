"""Which providers some worker serves right now, so that nobody queues for one that none does.

    worker: announce ──> hr:served:<provider>, three heartbeats long ──> look, every 2 s :api

A provider counts as served for `unserved_seconds` after it was last seen, and as long after
this process began to look: workers that restart, or boot after the api, cost nobody a request.

Some have no key of the broker's, so that workers serve them with accounts' own keys alone (`own`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Set
from time import monotonic
from typing import Final

from shared import keyspace
from shared.errors import NoWorker
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings

LOOK_SECONDS: Final = 2.0
RETRY_AFTER_SECONDS: Final = 5.0


class Presence:
    """`known`: the providers to look for, in the order to list them."""

    def __init__(
        self,
        link: RedisLink,
        settings: QueueSettings,
        known: Iterable[str] = (),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._link = link
        self._settings = settings
        self._known = tuple(known)
        self._clock = clock
        self._last_seen: dict[str, float] = {}
        self._last_seen_own: dict[str, float] = {}
        self._since = self._looked_at = clock()

    async def announce(self, providers: Sequence[str], *, keyless: Set[str] = frozenset()) -> None:
        """Say that these are served, for three heartbeats; `keyless`: those among them that are with
        accounts' own keys alone. Raises RedisError.
        """
        expires_ms = int(3 * self._settings.heartbeat_seconds * 1000)
        answers = await self._link.execute_many(
            [
                ("SET", keyspace.served(provider, own=provider in keyless), "1", "PX", expires_ms)
                for provider in providers
            ]
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def look(self) -> None:
        """Raises RedisError; what was seen before then stands."""
        answers = await self._link.execute_many(
            [
                ("EXISTS", keyspace.served(provider, own=own))
                for own in (False, True)
                for provider in self._known
            ]
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        now = self._clock()
        if now - self._looked_at > max(self._settings.unserved_seconds / 2, 3 * LOOK_SECONDS):
            # Redis was away, or this process frozen: workers had no way to be seen meanwhile.
            self._since = now
        self._looked_at = now
        seen, seen_own = answers[: len(self._known)], answers[len(self._known) :]
        for provider, answer, answer_own in zip(self._known, seen, seen_own, strict=True):
            if answer:
                self._last_seen[provider] = now
            if answer_own:
                self._last_seen_own[provider] = now

    def serves(self, provider: str, *, own: bool = False) -> bool:
        """Measured up to the last look: time in which nobody could be seen counts against nobody.

        `own`: whether the request has a key of its account's own there.
        """
        last_seen = max(self._last_seen.get(provider, -math.inf), self._since)
        if own:
            last_seen = max(last_seen, self._last_seen_own.get(provider, -math.inf))
        return self._looked_at - last_seen < self._settings.unserved_seconds

    def require(self, provider: str, *, own: bool = False) -> None:
        """Raises NoWorker."""
        if not self.serves(provider, own=own):
            raise NoWorker(
                f"No worker serves the provider {provider!r} at the moment.",
                details={"provider": provider},
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )

    def served(self) -> list[str]:
        """Those that a worker was seen to serve, within `unserved_seconds`."""
        return [p for p in self._known if p in self._last_seen and self.serves(p)]
