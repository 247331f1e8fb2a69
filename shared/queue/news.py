"""What one worker found out about a provider and all want to know: its breaker, its pauses.

    worker ── one script: key written, then PUBLISH ──> hr:conditions ──> every worker and api process
                     └── read again every second, in case a message was lost

Messages carry how long something lasts rather than until when, so no clock of a process is
compared with another's; in the keys it is Redis TIME and key expiry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from shared import keyspace
from shared.domain.conditions import BreakerState
from shared.queue.redis_link import RedisArg, RedisLink

_RECORD_MS: Final = 600_000
"""How long what was told of a breaker is kept after it half-opens."""

# A pause is never cut short by a shorter one.
# KEYS: pause; ARGV: ms, channel, message
_PAUSE: Final = """
if redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""

# KEYS: breaker hash; ARGV: field, state, ms until half-open, source, ms to keep it, channel, message
_BREAKER: Final = """
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode({
  state = ARGV[2], open_until = now + tonumber(ARGV[3]), at = now, source = ARGV[4]}))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 1
"""


@dataclass(frozen=True, slots=True)
class PauseNews:
    """Nothing is sent on this account for `seconds`."""

    provider: str
    credential: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BreakerNews:
    """`open_seconds`: until it half-opens; `source`: the process whose breaker it is.

    `version`: differs between any two records of one breaker; empty in a message.
    """

    provider: str
    origin: str
    credential: str
    state: BreakerState
    open_seconds: float
    source: str
    version: str = ""


News = PauseNews | BreakerNews


def read_message(payload: bytes) -> News | None:
    """None for what a newer release says, and for what is no message."""
    try:
        fields: dict[str, Any] = orjson.loads(payload)
        if fields["about"] == "pause":
            return PauseNews(fields["provider"], fields["credential"], fields["ms"] / 1000)
        if fields["about"] == "breaker":
            return BreakerNews(
                fields["provider"],
                fields["origin"],
                fields["credential"],
                BreakerState(fields["state"]),
                fields["ms"] / 1000,
                fields["source"],
            )
    except (ValueError, KeyError, TypeError):
        pass
    return None


async def tell(link: RedisLink, news: Sequence[News]) -> None:
    """In one round trip. Raises RedisError; safe to repeat."""
    _or_raise(await link.execute_many([_command(one) for one in news]))


async def read_pauses(link: RedisLink, accounts: Sequence[tuple[str, str]]) -> list[PauseNews]:
    """Those of these accounts (provider, credential) that are paused. Raises RedisError."""
    answers = await link.execute_many([("PTTL", keyspace.pause(*account)) for account in accounts])
    return [
        PauseNews(*account, left / 1000)
        for account, left in zip(accounts, _or_raise(answers), strict=True)
        if left > 0
    ]


async def read_breakers(link: RedisLink, providers: Sequence[str]) -> list[BreakerNews]:
    """What was last told of each breaker of these providers. Raises RedisError."""
    answers = await link.execute_many(
        [("TIME",), *(("HGETALL", keyspace.breaker(provider)) for provider in providers)]
    )
    (seconds, micros), *hashes = _or_raise(answers)
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    return [
        news
        for provider, flat in zip(providers, hashes, strict=True)
        for field, value in zip(flat[::2], flat[1::2], strict=True)
        if (news := _record(provider, field, value, now_ms)) is not None
    ]


def _record(provider: str, field: bytes, value: bytes, now_ms: int) -> BreakerNews | None:
    credential, _, origin = field.decode().partition("|")
    try:
        fields: dict[str, Any] = orjson.loads(value)
        return BreakerNews(
            provider,
            origin,
            credential,
            BreakerState(fields["state"]),
            max(0.0, (fields["open_until"] - now_ms) / 1000),
            fields["source"],
            f"{fields['at']:.0f}{fields['source']}{fields['state']}",
        )
    except (ValueError, KeyError, TypeError):
        return None  # a newer release says it in its own way


def _command(news: News) -> tuple[RedisArg, ...]:
    if isinstance(news, PauseNews):
        ms = max(1, int(news.seconds * 1000))
        message = orjson.dumps(
            {"about": "pause", "provider": news.provider, "credential": news.credential, "ms": ms}
        )
        key = keyspace.pause(news.provider, news.credential)
        return ("EVAL", _PAUSE, 1, key, ms, keyspace.CONDITIONS_CHANNEL, message)
    ms = int(news.open_seconds * 1000)
    message = orjson.dumps(
        {
            "about": "breaker",
            "provider": news.provider,
            "origin": news.origin,
            "credential": news.credential,
            "state": news.state,
            "ms": ms,
            "source": news.source,
        }
    )
    field = f"{news.credential}|{news.origin}"
    return (
        "EVAL", _BREAKER, 1, keyspace.breaker(news.provider), field, news.state.value, ms, news.source,
        ms + _RECORD_MS, keyspace.CONDITIONS_CHANNEL, message,
    )  # fmt: skip


def _or_raise(answers: Iterable[Any]) -> list[Any]:
    found = list(answers)
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
    return found
