"""How providers do right now, from the workers that call them to the api processes that choose.

    worker: note_end* ── write, every second ──> hr:load:<provider>, a field a worker ─┐
    worker: breakers and pauses (news.py) ─────────────────────────────────────────────├─> look :api
    the queue itself: depth ───────────────────────────────────────────────────────────┘

What is known is a second old at most, and a hint: nobody is refused for what could not be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
from redis.exceptions import RedisError

from shared import keyspace
from shared.clock import Clock, SystemClock
from shared.domain.conditions import UNKNOWN, BreakerState, ProviderCondition
from shared.queue.depth import LaneDepth, measure
from shared.queue.news import BreakerNews, PauseNews, read_breakers, read_message, read_pauses
from shared.queue.redis_link import RedisLink

WRITE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
OURS: Final = "default"
"""The credential of our own configuration, as a target names it."""
STALE_SECONDS: Final = 5.0
"""A worker that wrote nothing for so long is not there."""
_AVERAGED_SECONDS: Final = 10.0
_LATENCY_WEIGHT: Final = 0.2
_MODELS: Final = 64
"""Latencies kept of one provider; those of the models used longest ago go first."""
_CLEAN_EVERY: Final = 10

# KEYS: load; ARGV: consumer, JSON or '' to go, ms after which a worker is not there, '1' to clean up
_WRITE: Final = """
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return 1
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[3])
if ARGV[4] == '1' then
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do
    local at = tonumber(string.match(flat[i + 1], '^%d+')) or 0
    if now - at > tonumber(ARGV[3]) then
      redis.call('HDEL', KEYS[1], flat[i])
    end
  end
end
return 1
"""


class _Load:
    """What one worker knows of one provider."""

    def __init__(self) -> None:
        self.ended = 0
        self.drained_per_second = 0.0
        self.latency: dict[str, float] = {}

    def note(self, model: str, seconds: float, *, ok: bool) -> None:
        self.ended += 1
        if not ok:
            return  # how fast a failure comes says nothing of how long an answer takes
        known = self.latency.pop(model, None)
        self.latency[model] = seconds if known is None else known + _LATENCY_WEIGHT * (seconds - known)
        if len(self.latency) > _MODELS:
            del self.latency[next(iter(self.latency))]

    def average(self, elapsed: float, *, busy: bool) -> None:
        """How fast jobs end says what a worker can do only while it is `busy` with as many as it takes."""
        rate, self.ended = self.ended / elapsed, 0
        if busy and (rate or self.drained_per_second):
            weight = 1 - math.exp(-elapsed / _AVERAGED_SECONDS) if self.drained_per_second else 1.0
            self.drained_per_second += weight * (rate - self.drained_per_second)


class ConditionsWriter:
    """A worker's side. `free`: slots with nothing to do."""

    def __init__(
        self,
        link: RedisLink,
        consumer: str,
        providers: Sequence[str],
        *,
        slots: int,
        free: Callable[[], int],
        clock: Clock | None = None,
    ) -> None:
        self._link = link
        self._consumer = consumer
        self._slots = slots
        self._free = free
        self._clock = clock or SystemClock()
        self._loads = {provider: _Load() for provider in providers}
        self._written_at = self._clock.monotonic()
        self._turn = 0

    def note_end(self, provider: str, model: str, seconds: float, *, ok: bool) -> None:
        """A call has ended."""
        load = self._loads.get(provider)
        if load is not None:
            load.note(model, seconds, ok=ok)

    async def write(self) -> None:
        """One round trip for all providers. Raises RedisError."""
        now = self._clock.monotonic()
        elapsed = max(0.001, now - self._written_at)
        self._written_at = now
        self._turn += 1
        clean = int(self._turn % _CLEAN_EVERY == 1)
        free = self._free()
        fields: dict[str, str | bytes] = {}
        for provider, load in self._loads.items():
            load.average(elapsed, busy=free <= 0)
            fields[provider] = orjson.dumps(
                {
                    "slots": self._slots,
                    "free": free,
                    "drained_per_second": round(load.drained_per_second, 3),
                    "latency": {model: round(seconds, 3) for model, seconds in load.latency.items()},
                }
            )
        await self._send(fields, clean)

    async def leave(self) -> None:
        """This worker stops. Raises RedisError."""
        await self._send(dict.fromkeys(self._loads, ""), 0)

    async def _send(self, fields: Mapping[str, str | bytes], clean: int) -> None:
        _or_raise(
            await self._link.execute_many(
                [
                    (
                        "EVAL", _WRITE, 1, keyspace.load(provider), self._consumer, value,
                        int(STALE_SECONDS * 1000), clean,
                    )
                    for provider, value in fields.items()
                ]
            )
        )  # fmt: skip


class Conditions(Mapping[str, ProviderCondition]):
    """The api's side: by provider, as of the last look and the messages since.

    A provider of which nothing is known is UNKNOWN, and is no key. `providers`: those to look at.
    """

    def __init__(
        self,
        link: RedisLink,
        providers: Callable[[], Sequence[str]],
        *,
        shards: int,
        clock: Clock | None = None,
    ) -> None:
        self._link = link
        self._providers = providers
        self._shards = shards
        self._clock = clock or SystemClock()
        self._found: dict[str, ProviderCondition] = {}
        self._open_until: dict[str, float] = {}
        self._paused_until: dict[str, float] = {}

    def __getitem__(self, provider: str) -> ProviderCondition:
        found = self._found.get(provider)
        if found is None:
            raise KeyError(provider)
        # Times run out between two looks.
        if found.breaker is not BreakerState.OPEN and not found.paused_seconds:
            return found
        now = self._clock.monotonic()
        open_seconds = max(0.0, self._open_until.get(provider, 0.0) - now)
        paused_seconds = max(0.0, self._paused_until.get(provider, 0.0) - now)
        breaker = found.breaker
        if breaker is BreakerState.OPEN and not open_seconds:
            breaker = BreakerState.HALF_OPEN
        return replace(found, breaker=breaker, open_seconds=open_seconds, paused_seconds=paused_seconds)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def of(self, provider: str) -> ProviderCondition:
        """The same as `[]`, UNKNOWN in the place of a KeyError."""
        return self.get(provider, UNKNOWN)

    def on_message(self, payload: bytes) -> None:
        """From the subscription to keyspace.CONDITIONS_CHANNEL."""
        news = read_message(payload)
        if news is None or news.credential != OURS:
            return
        if isinstance(news, PauseNews):
            self._paused(news.provider, news.seconds)
        else:
            self._breaker(news.provider, news.state, news.open_seconds)

    async def look(self) -> None:
        """Raises RedisError; what was known then stands, and its times run out."""
        providers = list(self._providers())
        if not providers:
            self._found = {}
            return
        loads = await self._read_loads(providers)
        depth = await measure(self._link, providers, shards=self._shards)
        pauses = await read_pauses(self._link, [(provider, OURS) for provider in providers])
        breakers = await read_breakers(self._link, providers)
        self._found = {
            provider: _condition(loads[provider], [lane for lane in depth if lane.provider == provider])
            for provider in providers
        }
        self._open_until.clear()
        self._paused_until.clear()
        for pause in pauses:
            self._paused(pause.provider, pause.seconds)
        for provider in providers:
            worst = _worst([one for one in breakers if one.provider == provider])
            if worst is not None:
                self._breaker(provider, worst.state, worst.open_seconds)

    def _paused(self, provider: str, seconds: float) -> None:
        self._paused_until[provider] = self._clock.monotonic() + seconds
        self._found[provider] = replace(self.of(provider), paused_seconds=seconds)

    def _breaker(self, provider: str, state: BreakerState, open_seconds: float) -> None:
        self._open_until[provider] = self._clock.monotonic() + open_seconds
        self._found[provider] = replace(self.of(provider), breaker=state, open_seconds=open_seconds)

    async def _read_loads(self, providers: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Of the workers that are there, by provider."""
        answers = await self._link.execute_many(
            [("TIME",), *(("HGETALL", keyspace.load(provider)) for provider in providers)]
        )
        (seconds, micros), *hashes = _or_raise(answers)
        oldest = int(seconds) * 1000 + int(micros) // 1000 - STALE_SECONDS * 1000
        found: dict[str, list[dict[str, Any]]] = {}
        for provider, flat in zip(providers, hashes, strict=True):
            found[provider] = []
            for value in flat[1::2]:
                moment, _, text = value.partition(b" ")
                if moment.isdigit() and int(moment) >= oldest:
                    found[provider].append(orjson.loads(text))
        return found


_RANK: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


def _worst(records: Sequence[BreakerNews]) -> BreakerNews | None:
    """Of our own credential at all origins. A caller's own credential is no news for others."""
    ours = [one for one in records if one.credential == OURS]
    return max(ours, key=lambda one: (_RANK[one.state], one.open_seconds), default=None)


def _condition(loads: Sequence[dict[str, Any]], lanes: Sequence[LaneDepth]) -> ProviderCondition:
    latencies: dict[str, list[float]] = {}
    for load in loads:
        for model, seconds in load["latency"].items():
            latencies.setdefault(model, []).append(seconds)
    slots = sum(load["slots"] for load in loads)
    drained = sum(load["drained_per_second"] for load in loads)
    averages = {model: sum(found) / len(found) for model, found in latencies.items()}
    if averages and any(load["free"] for load in loads):
        # Not all are busy, so what they end is what they get. They can do at least this.
        drained = max(drained, slots * len(averages) / max(sum(averages.values()), 0.001))
    return ProviderCondition(
        queued=sum(lane.queued for lane in lanes),
        in_flight=sum(lane.in_flight for lane in lanes),
        workers=len(loads),
        slots=slots,
        drained_per_second=drained,
        latency_seconds=averages,
        queued_in={lane.lane: lane.queued for lane in lanes},
    )


def _or_raise(answers: Sequence[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, RedisError | OSError):
            raise answer
    return list(answers)
