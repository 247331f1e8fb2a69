"""How often somebody may try to log in: by the address that asks, and by the user that is meant."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from loguru import logger
from redis.exceptions import RedisError

from shared.clock import Clock, SystemClock
from shared.domain.allowance import Scope
from shared.domain.rate import Rate
from shared.errors import Overloaded, TooManyRequests
from shared.ids import AccountId, new_job_id
from shared.limits.reservations import Refused, Reservations
from shared.limits.rules import Rule, RuleSet
from shared.settings import LimitSettings

_REMEMBERED: Final = 10_000


@dataclass(slots=True)
class LoginLimits:
    """One a process."""

    reservations: Reservations
    settings: LimitSettings
    clock: Clock = field(default_factory=SystemClock)
    _here: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    """What this process counted by itself, while Redis was away."""

    async def require(self, address: str, *, apart: bool = False) -> None:
        """`apart`: on the operators' port, so that nobody who cannot reach it can lock them out.

        Raises TooManyRequests; Overloaded where nobody can count and the settings refuse then.
        """
        await self._count(f"address {address}", apart=apart)

    async def require_user(self, email: str, *, apart: bool = False) -> None:
        """The same for a user tried from many addresses. Of the email a digest is all that is kept."""
        digest = hashlib.sha256(email.strip().lower().encode("utf-8", "replace")).hexdigest()[:32]
        await self._count(f"login {digest}", apart=apart)

    async def _count(self, who: str, *, apart: bool) -> None:
        if apart:
            who = f"operators' {who}"
        rate = Rate.of(self.settings.auth)
        window_ms = rate.window_seconds * 1000
        rule = Rule(Scope.ADDRESS, "auth", f"r{window_ms}", rate.requests, window_ms)
        try:
            answer = await self.reservations.reserve(
                AccountId(who), new_job_id(), RuleSet([rule]), tokens=0, micro_usd=0, lapse_ms=0
            )
        except (RedisError, OSError, TimeoutError) as exc:
            if self.settings.without_redis_address == "refuse":
                raise Overloaded("Logins cannot be counted at the moment.", retry_after_seconds=1) from exc
            logger.warning("logins counted by this process alone", error=type(exc).__name__)
            self._count_here(who, rate)
            return
        if isinstance(answer, Refused):
            raise _too_many(answer.wait_seconds)

    def _count_here(self, who: str, rate: Rate) -> None:
        now = self.clock.monotonic()
        times = self._here.setdefault(who, deque())
        self._here.move_to_end(who)
        if len(self._here) > _REMEMBERED:
            self._here.popitem(last=False)
        while times and times[0] <= now - rate.window_seconds:
            times.popleft()
        if len(times) >= rate.requests:
            raise _too_many(times[0] + rate.window_seconds - now)
        times.append(now)


def _too_many(wait_seconds: float) -> TooManyRequests:
    return TooManyRequests("Too many attempts. Try again later.", retry_after_seconds=wait_seconds)
