"""What all workers know together of the providers' health: breakers, probes and pauses.

Jobs only touch what is in this process. One duty (`run_forever`) tells the others what changed,
at once, and looks every second whether a message was lost; without Redis each process goes by
what it found out itself.

    half-open: SET hr:probe NX ──> the one probe of the fleet; renewed while it runs, so that the
               permit of a worker that died is free again after PROBE_SECONDS
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from loguru import logger
from redis.exceptions import RedisError

from shared import keyspace
from shared.clock import Clock, SystemClock
from shared.domain.conditions import BreakerState
from shared.domain.job import DEFAULT_CREDENTIAL
from shared.queue import news
from shared.queue.news import BreakerNews, News, PauseNews
from shared.queue.redis_link import RedisLink
from shared.settings import BreakerSettings
from workers.breaker import PROBING_SECONDS, Admission, Breaker, BreakerKey, Breakers
from workers.pacing import Account, Pauses

LOOK_SECONDS: Final = 1.0
PROBE_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.2

# KEYS: probe; ARGV: token. Nobody gives back what is somebody else's by now.
_GIVE_BACK: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
# KEYS: probe; ARGV: token, ms
_RENEW: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""


class Fleet:
    def __init__(
        self,
        link: RedisLink,
        settings: BreakerSettings,
        providers: Sequence[str],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._link = link
        self._providers = tuple(providers)
        self._clock = clock or SystemClock()
        self._source = os.urandom(6).hex()
        self.breakers = Breakers(settings, clock=self._clock, on_change=self._changed)
        self.pauses = Pauses(self._clock)
        self._untold: dict[BreakerKey, tuple[BreakerState, float]] = {}
        self._versions: dict[BreakerKey, str] = {}
        """Of the records that were looked at: each is believed once."""
        self._probes: set[Account] = set()
        self._accounts: set[Account] = {(provider, "default") for provider in self._providers}
        self._returned: set[Account] = set()
        self._news = asyncio.Event()

    def breaker_state(
        self, provider: str, credential: str = DEFAULT_CREDENTIAL
    ) -> tuple[BreakerState, float]:
        """The worst of this provider's breakers here, and seconds until it half-opens.

        Of one credential: what an account's own one meets says nothing of the others.
        """
        breakers = [one for one in self.breakers.of(provider) if one.key.credential == credential]
        worst = max(breakers, key=lambda one: (_RANK[one.state], one.open_seconds), default=None)
        return (BreakerState.CLOSED, 0.0) if worst is None else (worst.state, worst.open_seconds)

    def pause(self, provider: str, credential: str, seconds: float) -> None:
        """Nothing is sent on this account, by any worker, for so long."""
        self.pauses.pause(provider, credential, seconds)
        self._news.set()

    def wake_if_news(self) -> None:
        """A pause may have begun behind the back of the duty."""
        if self.pauses.has_untold:
            self._news.set()

    async def may_probe(self, breaker: Breaker, admission: Admission) -> float:
        """Whether `admission`, a probe here, is that of the fleet: 0, or else seconds to wait.

        Cancelled or refused, the admission is abandoned. Without Redis every process probes by itself.
        """
        account = (breaker.key.provider, breaker.key.credential)
        self._accounts.add(account)
        try:
            taken = await self._link.execute(
                "SET", keyspace.probe(*account), self._source, "NX", "PX", _ms(PROBE_SECONDS)
            )
        except (RedisError, OSError) as exc:
            logger.debug("probe not claimed", provider=account[0], error=type(exc).__name__)
            return 0.0
        except asyncio.CancelledError:
            # It may have been set: given back in case it was.
            admission.abandoned()
            self._give_back(account)
            raise
        if not taken:
            admission.abandoned()
            breaker.hold_off(PROBING_SECONDS)
            return PROBING_SECONDS
        self._probes.add(account)
        self._tell(breaker.key, BreakerState.HALF_OPEN, 0.0)
        return 0.0

    def probe_ended(self, breaker: Breaker) -> None:
        """However it ended; after the admission was told."""
        account = (breaker.key.provider, breaker.key.credential)
        if account in self._probes:
            self._give_back(account)

    def on_message(self, payload: bytes) -> None:
        """From the subscription to keyspace.CONDITIONS_CHANNEL."""
        self._hear(news.read_message(payload))

    async def run_forever(self) -> None:
        next_look = 0.0
        while True:
            try:
                async with asyncio.timeout(max(0.0, next_look - self._clock.monotonic())):
                    await self._news.wait()
            except TimeoutError:
                pass
            try:
                await self.tell()
                if self._clock.monotonic() >= next_look:
                    await self.look()
                    next_look = self._clock.monotonic() + LOOK_SECONDS
            except (RedisError, OSError) as exc:
                logger.debug("news of providers not exchanged", error=type(exc).__name__)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def tell(self) -> None:
        """What changed here. Raises RedisError; then it is told the next time."""
        self._news.clear()
        breakers, self._untold = self._untold, {}
        pauses = self.pauses.untold()
        returned, self._returned = self._returned, set()
        now = self._clock.monotonic()
        found: list[News] = [
            BreakerNews(*key, state, max(0.0, until - now), self._source)
            for key, (state, until) in breakers.items()
        ]
        try:
            if found or pauses:
                await news.tell(self._link, [*found, *pauses])
            # After the news: whoever probes next knows how this probe ended.
            for account in returned:
                await self._link.execute("EVAL", _GIVE_BACK, 1, keyspace.probe(*account), self._source)
        except (RedisError, OSError):
            self._untold = {**breakers, **self._untold}
            self._returned |= returned
            for pause in pauses:
                self.pauses.tell_again(pause)
            self._news.set()
            raise

    async def look(self) -> None:
        """What others told, in case a message was lost; probes under way are renewed. Raises RedisError."""
        for account in tuple(self._probes):
            probe = keyspace.probe(*account)
            await self._link.execute("EVAL", _RENEW, 1, probe, self._source, _ms(PROBE_SECONDS))
        for pause in await news.read_pauses(self._link, sorted(self._accounts)):
            self._hear(pause)
        for record in await news.read_breakers(self._link, self._providers):
            key = BreakerKey(record.provider, record.origin, record.credential)
            if self._versions.get(key) != record.version:
                self._versions[key] = record.version
                self._hear(record)

    def _changed(self, key: BreakerKey, state: BreakerState, open_seconds: float) -> None:
        # Half-open is news once a probe is under way. Told earlier, it might arrive after the
        # news of how another worker's probe ended.
        if state is not BreakerState.HALF_OPEN:
            self._tell(key, state, open_seconds)

    def _tell(self, key: BreakerKey, state: BreakerState, open_seconds: float) -> None:
        self._accounts.add((key.provider, key.credential))
        self._untold[key] = (state, self._clock.monotonic() + open_seconds)
        self._news.set()

    def _hear(self, heard: News | None) -> None:
        if heard is None or heard.provider not in self._providers:
            return
        if isinstance(heard, PauseNews):
            self._accounts.add((heard.provider, heard.credential))
            self.pauses.heard(heard.provider, heard.credential, heard.seconds)
        elif heard.source != self._source:
            key = BreakerKey(heard.provider, heard.origin, heard.credential)
            self.breakers.heard(key, heard.state, heard.open_seconds)

    def _give_back(self, account: Account) -> None:
        self._probes.discard(account)
        self._returned.add(account)
        self._news.set()


_RANK: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
