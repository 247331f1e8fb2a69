"""When a provider fails again and again, nothing is sent to it for a while.

    closed ── fail_max failures in a row, or half of the calls of a window ──> open
      ^                                                                        │ reset_seconds
      └── the probe succeeded ── half-open: one call, the probe <──────────────┘
                                     └── it failed ──> open

pybreaker keeps the states. It knows no asyncio, so the call itself runs outside of it, and
only the outcome is told: synchronously, by the Admission that let the call through. An
outcome counts for the state its call was admitted in; one that comes after a change counts
for nothing. pybreaker's own clock, which is the wall's, is never asked: it is told when to
half-open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from loguru import logger
from pybreaker import CircuitBreaker

from shared.clock import Clock, SystemClock
from shared.domain.conditions import BreakerState
from shared.providers.profile import ProviderProfile
from shared.settings import BreakerSettings

PROBING_SECONDS: Final = 1.0
"""What a caller is told to wait while somebody else's probe is under way."""


class BreakerKey(NamedTuple):
    provider: str
    origin: str
    credential: str


class _Failed(Exception):
    """Stands for a failure when pybreaker is told of one."""


def _succeed() -> None:
    pass


def _fail() -> None:
    raise _Failed


@dataclass(slots=True)
class Admission:
    """The answer to `admit`. One that is `allowed` ends by exactly one of its methods.

    A second end is ignored, so that a cleanup path may call `abandoned` in any case.
    `refused_seconds`: when to ask again; 0 when allowed. `is_probe`: the one call of half-open.
    """

    _breaker: Breaker
    _era: int
    refused_seconds: float = 0.0
    is_probe: bool = False
    _ended: bool = field(default=False, init=False)

    @property
    def allowed(self) -> bool:
        return self.refused_seconds <= 0

    def succeeded(self) -> None:
        """The provider did its part, even if it was to say that the request is wrong."""
        if self._end():
            self._breaker._succeeded(self)

    def failed(self) -> None:
        if self._end():
            self._breaker._failed(self, in_a_row=True)

    def overloaded(self) -> None:
        """503 or 529: it counts in the window, and not among the failures in a row."""
        if self._end():
            self._breaker._failed(self, in_a_row=self.is_probe)

    def paced(self) -> None:
        """429: the provider is well, and wants fewer calls. That says nothing about its health."""
        self._release()

    def abandoned(self) -> None:
        """The call was cancelled, or never made: nobody knows how it would have ended."""
        self._release()

    def _release(self) -> None:
        if self._end():
            self._breaker._released(self)

    def _end(self) -> bool:
        first = self.allowed and not self._ended
        self._ended = True
        return first


class _Window:
    """Calls and failures of the last seconds, in slots of a thirtieth of the window."""

    _SLOTS: Final = 30

    def __init__(self, seconds: float) -> None:
        self._slot_seconds = seconds / self._SLOTS
        self._slots: deque[list[int]] = deque()
        """[slot number, calls, failures], oldest first."""
        self.calls = self.failures = 0

    def add(self, now: float, *, failed: bool) -> None:
        number = int(now / self._slot_seconds)
        while self._slots and self._slots[0][0] <= number - self._SLOTS:
            _, calls, failures = self._slots.popleft()
            self.calls -= calls
            self.failures -= failures
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append([number, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += failed
        self.calls += 1
        self.failures += failed

    def clear(self) -> None:
        self._slots.clear()
        self.calls = self.failures = 0


OnChange = Callable[[BreakerKey, BreakerState, float], None]
"""Told of each change that this process made: which breaker, its new state, seconds until it half-opens."""


class Breaker:
    def __init__(
        self, key: BreakerKey, settings: BreakerSettings, clock: Clock, on_change: OnChange | None = None
    ) -> None:
        self.key = key
        self._settings = settings
        self._clock = clock
        self._on_change = on_change
        self._circuit = CircuitBreaker(
            fail_max=settings.fail_max,
            reset_timeout=settings.reset_seconds,
            throw_new_error_on_trip=False,
            name=key.provider,
        )
        self._window = _Window(settings.window_seconds)
        self._state = BreakerState.CLOSED
        self._until = 0.0
        self._era = 0
        self._probe: Admission | None = None

    @property
    def state(self) -> BreakerState:
        """Open until the first call after its time; only a call half-opens it."""
        return self._state

    @property
    def open_seconds(self) -> float:
        """Until a probe may go; 0 unless open."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._until - self._clock.monotonic())

    def admit(self) -> Admission:
        if self._state is BreakerState.CLOSED:
            return Admission(self, self._era)
        if self._state is BreakerState.OPEN:
            remaining = self.open_seconds
            if remaining > 0:
                return Admission(self, self._era, refused_seconds=remaining)
            self._circuit.half_open()
            self._until = 0.0
            self._changed(BreakerState.HALF_OPEN)
        if self._probe is not None:
            return Admission(self, self._era, refused_seconds=PROBING_SECONDS)
        if (held_off := self._until - self._clock.monotonic()) > 0:
            return Admission(self, self._era, refused_seconds=held_off)
        self._probe = Admission(self, self._era, is_probe=True)
        return self._probe

    def hold_off(self, seconds: float) -> None:
        """Half-open: no probe from here for so long, because another process has one under way."""
        if self._state is BreakerState.HALF_OPEN:
            self._until = self._clock.monotonic() + seconds

    def adopt_open(self, seconds: float) -> None:
        """Another process found the provider failing: believe it, and tell nobody.

        A probe of this process that is under way goes on, and no longer counts. `seconds` 0: it may
        be probed already, which is news only to a breaker that is closed.
        """
        if seconds > 0 or self._state is BreakerState.CLOSED:
            self._trip(seconds, by_others=True)

    def adopt_closed(self) -> None:
        """Another process' probe succeeded."""
        if self._state is not BreakerState.CLOSED:
            self._circuit.close()
            self._reset()
            self._changed(BreakerState.CLOSED, by_others=True)

    def _succeeded(self, admission: Admission) -> None:
        if admission._era != self._era:
            return
        # Not for each call that ends well: it costs as much as all the rest of the gate.
        if admission.is_probe or self._circuit.fail_counter:
            self._circuit.call(_succeed)
        if admission.is_probe:
            self._reset()
            self._changed(BreakerState.CLOSED)
        else:
            self._window.add(self._clock.monotonic(), failed=False)

    def _failed(self, admission: Admission, *, in_a_row: bool) -> None:
        if admission._era != self._era:
            return
        if in_a_row:
            with suppress(_Failed):
                self._circuit.call(_fail)
        window = self._window
        window.add(self._clock.monotonic(), failed=True)
        settings = self._settings
        many = window.calls >= settings.window_calls
        if self._circuit.current_state == BreakerState.OPEN or (
            many and window.failures >= settings.window_failure_share * window.calls
        ):
            self._trip(settings.reset_seconds)

    def _released(self, admission: Admission) -> None:
        if admission is self._probe:
            self._probe = None

    def _trip(self, seconds: float, *, by_others: bool = False) -> None:
        self._circuit.open()
        self._reset()
        self._until = self._clock.monotonic() + seconds
        self._changed(BreakerState.OPEN, by_others=by_others)

    def _reset(self) -> None:
        self._probe = None
        self._until = 0.0
        self._window.clear()

    def _changed(self, state: BreakerState, *, by_others: bool = False) -> None:
        self._state = state
        self._era += 1
        logger.log(
            "WARNING" if state is BreakerState.OPEN else "INFO",
            "breaker changed",
            provider=self.key.provider,
            origin=self.key.origin,
            state=state,
            open_seconds=round(self.open_seconds, 3),
            heard=by_others,
        )
        if self._on_change is not None and not by_others:
            self._on_change(self.key, state, self.open_seconds)


class Breakers:
    """One a provider origin and credential, made when first asked for."""

    def __init__(
        self, settings: BreakerSettings, *, clock: Clock | None = None, on_change: OnChange | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._on_change = on_change
        self._by_key: dict[BreakerKey, Breaker] = {}
        self._by_profile: dict[tuple[str, str, str], Breaker] = {}

    def get(self, profile: ProviderProfile, credential: str) -> Breaker:
        found = self._by_profile.get((profile.id, profile.base_url, credential))
        if found is None:
            # An origin is parsed out of a URL: too dear for every call.
            found = self._at(BreakerKey(profile.id, profile.origin, credential))
            self._by_profile[profile.id, profile.base_url, credential] = found
        return found

    def heard(self, key: BreakerKey, state: BreakerState, open_seconds: float) -> None:
        """What another process told of its breaker. A breaker not made here yet is made for it."""
        if state is BreakerState.CLOSED:
            self._at(key).adopt_closed()
        else:
            self._at(key).adopt_open(open_seconds)

    def of(self, provider: str) -> list[Breaker]:
        """Those of a provider that were asked for or heard of, each once."""
        return [b for key, b in self._by_key.items() if key.provider == provider]

    def _at(self, key: BreakerKey) -> Breaker:
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = Breaker(key, self._settings, self._clock, self._on_change)
        return found
