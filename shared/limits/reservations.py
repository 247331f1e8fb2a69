"""What callers use, counted in Redis: reserved before a job is queued, settled once when it ended.

    reserve ──> the job runs ──> settle (what it really took)
       │  └──> release (it never was a job)
       ├──> Refused
       └──> nobody says how it ended: free again `hold_seconds` after its deadline

One script decides over all allowances of a job, on Redis TIME, so that any number of processes
together let through what one of them would. Counts of days and months begin with what the ledger
says, and again so when Redis lost them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib import resources
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError

from shared import keyspace
from shared.ids import AccountId, JobId
from shared.limits.rules import Rule, RuleSet
from shared.queue.redis_link import RedisArg, RedisLink

_FOLDER: Final = resources.files("shared.limits.scripts")
_SCRIPTS: Final = ("reserve", "release", "settle", "seed", "counted")


class Mode(StrEnum):
    CHECK = "check"
    REPLAY = "replay"
    """A repetition of what is a job already: its request counts, and nothing else of it."""
    NOTE = "note"
    """Counted whatever the limits say: it is a job already."""


class Left(NamedTuple):
    """Of the rule with the least left. `reset_ms`: until all of it is there again."""

    rule: Rule
    remaining: int
    reset_ms: int


class Reserved(NamedTuple):
    """`requests`, `tokens`: None where no window counts them. `before`: the same job was counted already,
    and all else is unknown.
    """

    requests: Left | None = None
    tokens: Left | None = None
    before: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    rule: Rule
    used: int
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """The calendar counts of this subject have to be read from the ledger first."""

    subject: str


@dataclass(frozen=True, slots=True)
class Count:
    """Of a calendar rule after a settlement. `period`: days since the epoch, or months since the year 0."""

    subject: str
    kind: str
    period: int
    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Counted:
    rule: Rule
    used: int
    reserved: int
    resets_in_ms: int


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """What the ledger says of a subject, today and this month."""

    requests_today: int = 0
    requests_month: int = 0
    spend_micro_usd: int = 0


class Reservations:
    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._scripts = {name: source(name) for name in _SCRIPTS}
        self._shas = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._scripts.items()
        }

    async def reserve(
        self,
        account: AccountId,
        job_id: JobId,
        rules: RuleSet,
        *,
        tokens: int,
        micro_usd: int,
        lapse_ms: int,
        mode: Mode = Mode.CHECK,
    ) -> Reserved | Refused | Unknown:
        """All rules or none. The same job again is granted what it has. Raises RedisError."""
        answer = await self._call(
            "reserve", account, job_id, lapse_ms, tokens, micro_usd, mode.value, rules.wire
        )
        if answer[0] == b"ok":
            _, r, requests, requests_reset, t, of_tokens, tokens_reset = answer
            return Reserved(
                Left(rules.rules[r - 1], requests, requests_reset) if r else None,
                Left(rules.rules[t - 1], of_tokens, tokens_reset) if t else None,
            )
        if answer[0] == b"held":
            return Reserved(before=True)
        if answer[0] == b"unknown":
            return Unknown(answer[1].decode())
        _, number, used, wait_ms = answer
        return Refused(rules.rules[number - 1], used, wait_ms / 1000)

    async def release(self, account: AccountId, job_id: JobId) -> None:
        """Of what never became a job. Raises RedisError."""
        await self._call("release", account, job_id)

    async def settle(
        self, account: AccountId, job_id: JobId, *, tokens: int, micro_usd: int, ended_at: datetime
    ) -> list[Count]:
        """Raises RedisError. Once: again changes nothing, and answers nothing."""
        ended_ms = int(ended_at.timestamp() * 1000)
        found = await self._call("settle", account, job_id, tokens, micro_usd, ended_ms)
        return [
            Count(subject.decode(), kind.decode(), period, used, limit)
            for subject, kind, period, used, limit in found
        ]

    async def end_calls(self, ended: Iterable[tuple[AccountId, str, JobId]]) -> None:
        """Calls, by account and subject, that are over though not settled yet: their places among those at
        once are free. Raises RedisError.
        """
        commands: list[tuple[RedisArg, ...]] = [
            ("ZREM", keyspace.calls_at_once(account, subject), job_id) for account, subject, job_id in ended
        ]
        await self._link.execute_many(commands)

    async def seed(
        self, account: AccountId, subject: str, counts: LedgerCounts, *, anew: bool = False
    ) -> None:
        """Begin with `counts` where nothing is known; `anew`: where something is, too."""
        await self._call(
            "seed", account, subject, counts.requests_today, counts.requests_month, counts.spend_micro_usd,
            int(anew),
        )  # fmt: skip

    async def counted(self, account: AccountId, rules: RuleSet) -> list[Counted] | Unknown:
        """Raises RedisError."""
        answer = await self._call("counted", account, rules.wire)
        if answer[0] == b"unknown":
            return Unknown(answer[1].decode())
        numbers = answer[1:]
        return [Counted(rule, *numbers[3 * index : 3 * index + 3]) for index, rule in enumerate(rules.rules)]

    async def _call(self, name: str, account: AccountId, *args: RedisArg) -> Any:
        key = keyspace.holds(account)
        try:
            return await self._link.execute("EVALSHA", self._shas[name], 1, key, *args)
        except NoScriptError:
            return await self._link.execute("EVAL", self._scripts[name], 1, key, *args)


def source(name: str) -> str:
    """The script with the shared part in front."""
    return "".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("counts", name))


def day_number(moment: datetime) -> int:
    """As the scripts count days."""
    return int(moment.timestamp() // 86_400)


def month_number(moment: datetime) -> int:
    at = moment.astimezone(UTC)
    return at.year * 12 + at.month - 1
