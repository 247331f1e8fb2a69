"""HOT PATH. Whether a job may call its provider now, and what each call tells about the provider.

    go = await gate.enter(profile, target, job, holder=..., remaining_seconds=...)
    if isinstance(go, Wait):
        ...  # move the job on (`go.reason`), or put it aside for go.seconds, no attempt counted
    try:
        ...  # the call
    except BaseException as error:
        gate.leave(go, error=error, headers=progress.headers, usage=progress.counted())
        raise
    gate.leave(go, headers=progress.headers, usage=progress.counted())

`enter` asks, in this order: is the account paused, has this process calls enough there, does its
breaker let it through, is there a permit of the account's limits. All but the last, and the
one probe of a half-open breaker, are look-ups in this process: a provider that is well and
has no configured limits costs no round trip.

`leave` never waits and never raises; a second `leave` of the same Go changes nothing. What it
found out is told to the other workers by `run_forever`, within milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from enum import StrEnum
from random import Random
from typing import Any, Final

import orjson
from loguru import logger
from redis.exceptions import RedisError

from shared.clock import Clock, SystemClock
from shared.domain.conditions import BreakerState
from shared.domain.job import DEFAULT_CREDENTIAL, Job, JobKind, Lane, Target
from shared.domain.usage import Usage
from shared.errors import BrokerError, ProviderError, ProviderRateLimited, ProviderTimeout
from shared.limits.permits import Amounts, NoPermit, Permit, Permits
from shared.providers.limits import read_limits
from shared.providers.profile import ProviderProfile
from shared.providers.registry import Registry
from shared.providers.tokens import tokens_of_body
from shared.queue.conditions import WRITE_SECONDS, ConditionsWriter
from shared.queue.redis_link import RedisLink
from shared.settings import Settings
from workers.breaker import Admission, Breaker
from workers.fleet import Fleet
from workers.pacing import Pacing

_OVERLOADED: Final = frozenset({503, 529})
_RENEW_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.2
_SPREAD_SECONDS: Final = 0.5
"""What waits for the same moment comes back over so long a time."""
_FULL_SECONDS: Final = (0.25, 1.0)
_BACK_A_SECOND: Final = 50
_BACK_A_SECOND_A_CALL: Final = 20
"""How many of those turned away from a full account come back in a second, and how many more for each
call that runs there: enough to take every place that is freed, however many wait."""
_LONGEST_TURN_SECONDS: Final = 10.0
_UNTOLD_OUTPUT_TOKENS: Final = 1_000
"""Of a request that does not bound its answer; corrected when it is there."""
_NO_OUTPUT: Final = frozenset(
    {JobKind.EMBEDDINGS, JobKind.RERANK, JobKind.COUNT_TOKENS, JobKind.PROVIDER_BATCH}
)
_OUTPUT_BOUNDS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens", "max_length")


class WaitReason(StrEnum):
    OPEN = "breaker_open"
    """The provider fails. Another target of the plan is better than waiting."""
    PAUSED = "paused"
    """It refused for its rate."""
    PACED = "paced"
    """It did so a while ago, and this process has as many calls there as it dares."""
    NO_PERMIT = "no_permit"
    """The configured limits of the account are used up."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now. `seconds`: when to ask again, spread so that not all come back at once."""

    seconds: float
    reason: WaitReason


@dataclass(slots=True)
class Go:
    """The right to make one call; ends with `leave`."""

    target: Target
    breaker: Breaker
    admission: Admission
    started_at: float
    budget_seconds: float
    permit: Permit | None = None
    left: bool = field(default=False, init=False)


class Gate:
    def __init__(
        self,
        link: RedisLink,
        settings: Settings,
        providers: Sequence[str],
        permits: Permits,
        writer: ConditionsWriter,
        *,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._rng = rng or Random()  # noqa: S311 - jitter
        self._permits = permits
        self._writer = writer
        self.fleet = Fleet(link, settings.breaker, providers, clock=self._clock)
        self.pacing = Pacing(
            self.fleet.pauses,
            ceiling=settings.worker.slots,
            base_seconds=settings.worker.pause_base_seconds,
            cap_seconds=settings.worker.pause_cap_seconds,
            clock=self._clock,
            rng=self._rng,
        )
        self._returned: list[tuple[Permit, Amounts | None]] = []
        self._something_returned = asyncio.Event()
        self._limits_read_at: dict[tuple[str, str], float] = {}
        self._last_turn: dict[tuple[str, str, Lane], float] = {}
        """When the last of those turned away from a full account comes back."""

    @classmethod
    def of_worker(
        cls,
        link: RedisLink,
        settings: Settings,
        registry: Registry,
        *,
        consumer: str,
        providers: Sequence[str],
        free: Callable[[], int],
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> Gate:
        """`free`: slots of this worker with nothing to do."""
        limits = {name: profile.limits for name, profile in registry.profiles.items() if profile.limits}
        slots = settings.worker.slots
        permits = Permits(link, limits, reserve_percent=settings.worker.batch_reserve_percent)
        writer = ConditionsWriter(link, consumer, providers, slots=slots, free=free, clock=clock)
        return cls(link, settings, providers, permits, writer, clock=clock, rng=rng)

    async def enter(
        self, profile: ProviderProfile, target: Target, job: Job, *, holder: str, remaining_seconds: float
    ) -> Go | Wait:
        """`holder`: unique to this run of the job, such as its id and fence.

        `remaining_seconds`: until the job's deadline. Cancelled, it leaves nothing taken.
        """
        account = (target.provider, target.credential)
        paused = self.fleet.pauses.remaining(*account)
        if paused > 0:
            return self._wait(paused, WaitReason.PAUSED)
        if self.pacing.room(*account) <= 0:
            seconds = self._turn(account, job, self._rng.uniform(*_FULL_SECONDS), remaining_seconds)
            return Wait(seconds, WaitReason.PACED)
        breaker = self.fleet.breakers.get(profile, target.credential)
        admission = breaker.admit()
        if not admission.allowed:
            return self._wait(admission.refused_seconds, WaitReason.OPEN)
        go = Go(target, breaker, admission, self.pacing.started(*account), remaining_seconds)
        limited = self._permits.limited(target.provider)
        if not admission.is_probe and not limited:
            return go
        try:
            wait = await self._ask_others(go, job, holder, limited=limited)
        except BaseException:
            self._withdraw(go)
            raise
        if wait is not None:
            self._withdraw(go)
            return wait
        return go

    def leave(
        self,
        go: Go,
        *,
        error: BaseException | None = None,
        headers: Mapping[str, str] | None = None,
        usage: Usage | None = None,
    ) -> None:
        """The call has ended. `error`: what it raised, be it a cancellation; `headers`: of the answer."""
        if go.left:
            return
        go.left = True
        account = (go.target.provider, go.target.credential)
        headers = headers or {}
        # While it still counts as running: a refusal halves what ran, this call included.
        self._judge(go, error, answered=bool(headers))
        self.pacing.ended(*account)
        if headers:
            self.pacing.told(*account, headers)
            self._read_limits(account, headers)
        self._end(go, _really(error, usage))
        seconds = self._clock.monotonic() - go.started_at
        self._writer.note_end(go.target.provider, go.target.model, seconds, ok=error is None)
        self.fleet.wake_if_news()

    def room(self, provider: str) -> int:
        """How many more of its jobs this process could start now: 0 while it is paused or open.

        A huge number where nothing bounds them; a permit may be wanting all the same.
        """
        if self.fleet.pauses.remaining(provider, "default") > 0:
            return 0
        state, open_seconds = self.fleet.breaker_state(provider)
        if state is BreakerState.CLOSED:
            return self.pacing.room(provider)
        return 0 if open_seconds > 0 else min(1, self.pacing.room(provider))

    def condition(
        self, provider: str, credential: str = DEFAULT_CREDENTIAL
    ) -> tuple[BreakerState, float, float]:
        """Its breaker, seconds until that half-opens, and seconds of its pause, as this process knows."""
        paused = self.fleet.pauses.remaining(provider, credential)
        return *self.fleet.breaker_state(provider, credential), paused

    def on_message(self, payload: bytes) -> None:
        """From the worker's subscription to keyspace.CONDITIONS_CHANNEL."""
        self.fleet.on_message(payload)

    async def run_forever(self) -> None:
        """The duty of a worker: exchange news, give permits back, say what is free."""
        async with asyncio.TaskGroup() as duties:
            duties.create_task(self.fleet.run_forever(), name="gate-news")
            duties.create_task(self._return_forever(), name="gate-permits")
            duties.create_task(self._write_forever(), name="gate-load")

    async def close(self) -> None:
        """The worker stops, its jobs have ended: what is still to be told, and that it is gone."""
        try:
            await self.give_back()
            await self.fleet.tell()
            await self._writer.leave()
        except (RedisError, OSError) as exc:
            logger.debug("gate closed without Redis", error=type(exc).__name__)

    async def give_back(self) -> None:
        """Permits of calls that ended. Raises RedisError; the rest is given back the next time."""
        self._something_returned.clear()
        while self._returned:
            await self._permits.give_back(*self._returned[0])
            del self._returned[0]

    async def _ask_others(self, go: Go, job: Job, holder: str, *, limited: bool) -> Wait | None:
        if go.admission.is_probe:
            seconds = await self.fleet.may_probe(go.breaker, go.admission)
            if seconds > 0:
                return self._wait(seconds, WaitReason.OPEN)
        if not limited:
            return None
        account = (go.target.provider, go.target.credential)
        wanted = _estimate(job, go.target)
        # Given back even if nobody hears the answer: the call may have reached the server.
        go.permit = Permit(account, holder, 0, wanted)
        try:
            answer = await self._permits.take(account, holder, wanted, batch=job.lane is Lane.BATCH)
        except (RedisError, OSError) as exc:
            logger.warning("no permit taken", provider=account[0], error=type(exc).__name__)
            return self._wait(1.0, WaitReason.NO_PERMIT)
        if isinstance(answer, NoPermit):
            go.permit = None
            wait = self._wait(answer.seconds, WaitReason.NO_PERMIT)
            return replace(wait, seconds=self._turn(account, job, wait.seconds, go.budget_seconds))
        go.permit = answer
        return None

    def _withdraw(self, go: Go) -> None:
        """As if it had never entered."""
        go.left = True
        go.admission.abandoned()
        self.pacing.ended(go.target.provider, go.target.credential)
        self._end(go, Amounts())

    def _end(self, go: Go, really: Amounts | None) -> None:
        if go.admission.is_probe:
            self.fleet.probe_ended(go.breaker)
        if go.permit is not None:
            self._returned.append((go.permit, really))
            self._something_returned.set()

    def _judge(self, go: Go, error: BaseException | None, *, answered: bool) -> None:
        admission, account = go.admission, (go.target.provider, go.target.credential)
        if error is None:
            admission.succeeded()
            self.pacing.succeeded(*account)
        elif isinstance(error, ProviderRateLimited):
            admission.paced()
            self.pacing.refused(error, go.target.credential, started_at=go.started_at)
        elif isinstance(error, ProviderError) and error.counts_for_breaker:
            if error.provider_status in _OVERLOADED:
                admission.overloaded()
                self.fleet.pause(*account, error.retry_after_seconds or 0.0)
            elif self._too_little_time(go, error):
                admission.abandoned()
            else:
                admission.failed()
        elif isinstance(error, BrokerError) and answered:
            admission.succeeded()
        else:
            # Cancelled, never sent, or broken by ourselves.
            admission.abandoned()

    def _too_little_time(self, go: Go, error: ProviderError) -> bool:
        """Whether the caller's own deadline ended the call, before the provider had its usual time."""
        if not isinstance(error, ProviderTimeout):
            return False
        usual = min(self._settings.provider.first_byte_seconds, self._settings.provider.total_seconds)
        elapsed = self._clock.monotonic() - go.started_at
        return go.budget_seconds < usual and elapsed >= go.budget_seconds - 0.05

    def _read_limits(self, account: tuple[str, str], headers: Mapping[str, str]) -> None:
        """At most once a second: they are many, and change little."""
        if not self._permits.limited(account[0]):
            return
        now = self._clock.monotonic()
        if now - self._limits_read_at.get(account, 0.0) < 1.0:
            return
        self._limits_read_at[account] = now
        lower = {name.lower(): value for name, value in headers.items()}
        limits = read_limits(lower, self._clock.now().astimezone(UTC))
        if limits is not None:
            self._permits.told(*account, limits)

    def _wait(self, seconds: float, reason: WaitReason) -> Wait:
        return Wait(seconds + self._rng.uniform(0.0, min(_SPREAD_SECONDS, seconds)), reason)

    def _turn(self, account: tuple[str, str], job: Job, seconds: float, remaining_seconds: float) -> float:
        """`seconds`, or more while many others of its lane were turned away before.

        They come back one after another: thousands that ask every second would keep worker and Redis
        busy with nothing. Never so late that little of the job's time is left.
        """
        now = self._clock.monotonic()
        place = (*account, job.lane)
        rate = _BACK_A_SECOND + _BACK_A_SECOND_A_CALL * self.pacing.running(*account)
        at = min(max(now, self._last_turn.get(place, now)) + 1 / rate, now + _LONGEST_TURN_SECONDS)
        self._last_turn[place] = at
        return max(seconds, min(at - now, remaining_seconds / 4))

    async def _return_forever(self) -> None:
        next_renewal = 0.0
        while True:
            try:
                async with asyncio.timeout(max(0.0, next_renewal - self._clock.monotonic())):
                    await self._something_returned.wait()
            except TimeoutError:
                pass
            try:
                await self.give_back()
                if self._clock.monotonic() >= next_renewal:
                    await self._permits.renew()
                    next_renewal = self._clock.monotonic() + _RENEW_SECONDS
            except (RedisError, OSError) as exc:
                logger.debug("permits not given back", error=type(exc).__name__)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _write_forever(self) -> None:
        while True:
            try:
                await self._writer.write()
            except (RedisError, OSError) as exc:
                logger.debug("load not told", error=type(exc).__name__)
            await asyncio.sleep(WRITE_SECONDS)


def _really(error: BaseException | None, usage: Usage | None) -> Amounts | None:
    """What a call took of its account; None: as much as was estimated."""
    if usage is not None:
        return Amounts(usage.prompt_tokens, usage.completion_tokens)
    if isinstance(error, ProviderError) and error.provider_status is not None and error.provider_status < 500:
        return Amounts()  # refused before anything was read
    return None


def _estimate(job: Job, target: Target) -> Amounts:
    prompt = tokens_of_body(job.kind, job.body, target.model)
    return Amounts(prompt, 0 if job.kind in _NO_OUTPUT else _output_bound(job.body))


def _output_bound(body: bytes) -> int:
    try:
        document: dict[str, Any] = orjson.loads(body)
    except ValueError:
        return _UNTOLD_OUTPUT_TOKENS
    bounds = [document[name] for name in _OUTPUT_BOUNDS if isinstance(document.get(name), int)]
    return max(0, min(bounds)) if bounds else _UNTOLD_OUTPUT_TOKENS
