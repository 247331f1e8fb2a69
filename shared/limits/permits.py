"""Permits to call a provider account: its requests and tokens per minute, its calls at once.

    take ──> Permit ──> the call ──> give_back(what it really took)
      └──> seconds to wait

One script decides for all workers, on Redis TIME. What a holder that died had taken of a minute
stays taken; its place among the calls at once is free again after HOLD_SECONDS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from redis.exceptions import NoScriptError

from shared import keyspace
from shared.providers.limits import Limits
from shared.providers.profile import AccountLimits
from shared.queue.redis_link import RedisArg, RedisLink

HOLD_SECONDS: Final = 30.0

_FOLDER: Final = resources.files("shared.limits.scripts")
_PARTS: Final = ("requests", "input_tokens", "output_tokens", "tokens")

Account = tuple[str, str]


def source(name: str) -> str:
    """The script with the shared part in front."""
    return "".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("state", name))


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a call takes: one request, and these tokens, estimated or counted."""

    input_tokens: int = 0
    output_tokens: int = 0

    def parts(self) -> tuple[int, int, int, int]:
        return 1, self.input_tokens, self.output_tokens, self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Permit:
    account: Account
    holder: str
    slot: int
    taken: Amounts


@dataclass(frozen=True, slots=True)
class NoPermit:
    seconds: float
    """After which asking again makes sense."""


class Permits:
    def __init__(
        self,
        link: RedisLink,
        limits: Mapping[str, AccountLimits],
        *,
        reserve_percent: int = 20,
        clock_ms: Callable[[], float] | None = None,
    ) -> None:
        """`limits`: by provider; those without an entry have none. `clock_ms`: in the place of Redis TIME,
        for tests; no setting leads here.
        """
        self._link = link
        self._limits = dict(limits)
        self._reserve = reserve_percent / 100
        self._clock_ms = clock_ms
        self._told: dict[Account, Limits] = {}
        self._held: dict[Account, dict[str, None]] = {}
        self._scripts = {name: source(name) for name in ("take", "give_back", "renew")}
        self._shas = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._scripts.items()
        }

    def limited(self, provider: str) -> bool:
        """Whether its calls need a permit."""
        return provider in self._limits

    def told(self, provider: str, credential: str, limits: Limits) -> None:
        """What the provider says its limits are: a lower one holds, a higher one does not."""
        if provider in self._limits:
            self._told[provider, credential] = limits

    async def take(self, account: Account, holder: str, wanted: Amounts, *, batch: bool) -> Permit | NoPermit:
        """The same `holder` asking again, after an error for instance, gets the same permit.

        Batch work is granted what leaves `reserve_percent` of each limit free, and half of the
        calls at once. Raises RedisError.
        """
        limits, concurrent = self._effective(account)
        parts = [number for pair in zip(limits, wanted.parts(), strict=True) for number in pair]
        granted, number = await self._call(
            "take", _keys(account), holder, int(batch), _HOLD_MS, self._reserve, concurrent, self._clock(),
            *parts,
        )  # fmt: skip
        if not granted:
            return NoPermit(number / 1000)
        self._held.setdefault(account, {})[holder] = None
        return Permit(account, holder, number, wanted)

    async def give_back(self, permit: Permit, really: Amounts | None = None) -> None:
        """`really`: what the call took; None while nobody knows: the estimate then stands.

        Once: again changes nothing. Raises RedisError.
        """
        held = self._held.get(permit.account)
        if held is not None:
            held.pop(permit.holder, None)
        limits, _ = self._effective(permit.account)
        taken = permit.taken.parts()
        actual = taken if really is None else really.parts()
        parts = [number for three in zip(limits, taken, actual, strict=True) for number in three]
        await self._call(
            "give_back", _keys(permit.account), permit.holder, permit.slot, self._clock(), *parts
        )

    async def renew(self) -> None:
        """Keep the places of calls that run; well within HOLD_SECONDS. Raises RedisError."""
        for account, held in tuple(self._held.items()):
            if held:
                await self._call("renew", _keys(account)[1:], _HOLD_MS, self._clock(), *held)

    def _effective(self, account: Account) -> tuple[tuple[int, ...], int]:
        configured = self._limits.get(account[0], AccountLimits())
        told = self._told.get(account)
        found: list[int] = []
        for part in _PARTS:
            limit: int | None = getattr(configured, f"{part}_per_minute")
            said = None if told is None else getattr(told, part)
            if limit is not None and said is not None and said.limit:
                limit = min(limit, said.limit)
            found.append(limit or 0)
        return tuple(found), configured.concurrent or 0

    def _clock(self) -> RedisArg:
        return "" if self._clock_ms is None else self._clock_ms()

    async def _call(self, name: str, keys: Sequence[str], *args: RedisArg) -> Any:
        try:
            return await self._link.execute("EVALSHA", self._shas[name], len(keys), *keys, *args)
        except NoScriptError:
            return await self._link.execute("EVAL", self._scripts[name], len(keys), *keys, *args)


_HOLD_MS: Final = int(HOLD_SECONDS * 1000)


def _keys(account: Account) -> tuple[str, str, str]:
    return (
        keyspace.permits(*account),
        keyspace.permit_holders(*account),
        keyspace.permit_holders(*account, batch=True),
    )
