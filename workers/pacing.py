"""When a provider refuses for its rate, every worker waits, and then begins gently.

    429 ──> pause of the account, for all workers ──> at its end, few calls at once (AIMD), then more

The pause lasts as long as the provider asked, else a time that doubles with each refusal in a
row, drawn at random below that (full jitter). Calls that were under way when the pause
began are refused too, mostly: they count as the same refusal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from shared.clock import Clock, SystemClock
from shared.errors import ProviderError
from shared.providers.limits import Limit, read_limits
from shared.providers.retry_after import MAX_SECONDS
from shared.queue.news import PauseNews

REFILLED_SHARE: Final = 0.1
"""A bucket that refills all the time can be used again long before it is full."""

Account = tuple[str, str]
"""Provider and credential."""

_BUCKETS: Final = (
    *(f"x-ratelimit-remaining-{subject}" for subject in ("requests", "tokens")),
    *(
        f"anthropic-ratelimit-{subject}-remaining"
        for subject in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
)
_WINDOWS: Final = ("x-ratelimit-remaining", "ratelimit-remaining")


class Pauses:
    """Until when nothing is sent on which account: a local look-up, kept the same in all workers by news."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._until: dict[Account, float] = {}
        self._untold: dict[Account, float] = {}

    def pause(self, provider: str, credential: str, seconds: float) -> None:
        """Here at once; for the others with the next `untold`."""
        if self.heard(provider, credential, seconds):
            self._untold[provider, credential] = self._until[provider, credential]

    def heard(self, provider: str, credential: str, seconds: float) -> bool:
        """A pause that another worker began. False when it changes nothing: a longer one is on."""
        until = self._clock.monotonic() + seconds
        if seconds <= 0 or until <= self._until.get((provider, credential), 0.0):
            return False
        self._until[provider, credential] = until
        return True

    def remaining(self, provider: str, credential: str) -> float:
        """Seconds; 0 when nothing is paused."""
        if not self._until:
            return 0.0
        until = self._until.get((provider, credential))
        if until is None:
            return 0.0
        remaining = until - self._clock.monotonic()
        if remaining > 0:
            return remaining
        del self._until[provider, credential]
        return 0.0

    @property
    def has_untold(self) -> bool:
        return bool(self._untold)

    def untold(self) -> list[PauseNews]:
        """What the others have to be told; each pause is handed out once."""
        untold, self._untold = self._untold, {}
        now = self._clock.monotonic()
        return [PauseNews(*account, until - now) for account, until in untold.items() if until > now]

    def tell_again(self, news: PauseNews) -> None:
        """It could not be told."""
        until = self._clock.monotonic() + news.seconds
        self._untold.setdefault((news.provider, news.credential), until)


@dataclass(slots=True)
class _Pace:
    running: int = 0
    allowance: int = sys.maxsize
    successes: int = 0
    """Since the allowance last grew."""
    refusals: int = 0
    """In a row, those of one moment counted once."""
    paused_at: float = 0.0


class Pacing:
    """How many calls this process may have at each account, and how long a refusal pauses it.

    Additive increase, multiplicative decrease: each refusal halves the number of concurrent calls,
    as many successes as are allowed raise it by one; from `ceiling` on it is no limit any more.
    """

    def __init__(
        self,
        pauses: Pauses,
        *,
        ceiling: int,
        base_seconds: float = 1.0,
        cap_seconds: float = 30.0,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._pauses = pauses
        self._ceiling = ceiling
        self._base_seconds, self._cap_seconds = base_seconds, cap_seconds
        self._clock = clock or SystemClock()
        self._rng = rng or Random()  # noqa: S311 - jitter
        self._paces: dict[Account, _Pace] = {}

    def allowance(self, provider: str, credential: str = "default") -> int:
        """sys.maxsize until the first refusal."""
        return self._pace(provider, credential).allowance

    def room(self, provider: str, credential: str = "default") -> int:
        """How many more calls may start now."""
        pace = self._pace(provider, credential)
        return max(0, pace.allowance - pace.running)

    def running(self, provider: str, credential: str) -> int:
        """Calls of this process under way."""
        return self._pace(provider, credential).running

    def started(self, provider: str, credential: str) -> float:
        """One call more; the moment to hand to `refused`. Each is ended by `ended`."""
        self._pace(provider, credential).running += 1
        return self._clock.monotonic()

    def ended(self, provider: str, credential: str) -> None:
        self._pace(provider, credential).running -= 1

    def succeeded(self, provider: str, credential: str) -> None:
        pace = self._pace(provider, credential)
        pace.refusals = 0
        if pace.allowance == sys.maxsize:
            return
        pace.successes += 1
        if pace.successes >= pace.allowance:
            pace.successes = 0
            pace.allowance += 1
            if pace.allowance >= self._ceiling:
                pace.allowance = sys.maxsize

    def refused(self, error: ProviderError, credential: str, *, started_at: float) -> float:
        """The call was refused for its rate. Seconds of the pause that follows."""
        provider, wish = error.provider, error.retry_after_seconds or 0.0
        pace = self._pace(provider, credential)
        if pace.paused_at and started_at <= pace.paused_at:
            # It was under way already when the first refusal came: no news, except a longer wish.
            self._pauses.pause(provider, credential, min(wish, MAX_SECONDS))
            return self._pauses.remaining(provider, credential)
        pace.paused_at = self._clock.monotonic()
        pace.allowance = max(1, min(pace.allowance, pace.running) // 2)
        pace.successes = 0
        backoff = min(self._cap_seconds, self._base_seconds * 2 ** min(pace.refusals, 16))
        pace.refusals += 1
        # Jitter before a wish as well would be later than asked; the gentle start spreads the calls.
        seconds = min(wish, MAX_SECONDS) if wish > 0 else self._rng.uniform(0.0, backoff)
        self._pauses.pause(provider, credential, seconds)
        return seconds

    def told(self, provider: str, credential: str, headers: Mapping[str, str]) -> None:
        """Headers of an answer, to be looked up by lower-case names: nothing left means a pause."""
        if seconds := exhausted_seconds(headers, self._clock):
            self._pauses.pause(provider, credential, seconds)

    def _pace(self, provider: str, credential: str) -> _Pace:
        pace = self._paces.get((provider, credential))
        if pace is None:
            pace = self._paces[provider, credential] = _Pace()
        return pace


def exhausted_seconds(headers: Mapping[str, str], clock: Clock) -> float:
    """For how long to send nothing, because an answer said that nothing is left; 0 when it did not.

    A window is waited out. What is limited by subject is a bucket: its reset is when all of it
    is there again, so a part of that time brings enough to go on.
    """
    if "0" not in headers.values():
        return 0.0
    buckets = any(headers.get(name) == "0" for name in _BUCKETS)
    if not buckets and not any(headers.get(name) == "0" for name in _WINDOWS):
        return 0.0
    now = clock.now()
    limits = read_limits({name.lower(): value for name, value in headers.items()}, now)
    if limits is None:
        return 0.0
    found: tuple[Limit | None, ...] = (
        limits.requests, limits.tokens, limits.input_tokens, limits.output_tokens,
    )  # fmt: skip
    waits = [
        (limit.reset_at - now).total_seconds()
        for limit in found
        if limit is not None and limit.remaining == 0 and limit.reset_at is not None
    ]
    seconds = min(MAX_SECONDS, max(waits, default=0.0))
    return max(0.0, seconds * (REFILLED_SHARE if buckets else 1.0))
