"""What callers use, counted in Redis: reserved before a job is queued, settled once when it ended.

    reserve ──> the job runs ──> settle (what it really took)
       │  └──> release (it never was a job)
       ├──> Refused
       └──> nobody says how it ended: free again `hold_seconds` after its deadline, while the ledger
            would say it

One script decides over all allowances of a job, on Redis TIME, so that any number of processes
together let through what one of them would. Jobs that ask under the same rules in the same moment go by
one call of it, which decides over each in turn; jobs that ended are settled together. Counts of days and
months begin with what the ledger says, and again so when Redis lost them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
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
from shared.queue.script_calls import ALLOW_OOM

_FOLDER: Final = resources.files("shared.limits.scripts")
LOOK_SECONDS: Final = 2.0
_MOST_AT_ONCE: Final = 50
"""Jobs in one call of a script: Redis does nothing else meanwhile."""
_ALSO_WHEN_FULL: Final = frozenset({"release", "settle"})
"""What a job holds has to end with it, or the ledger stands still behind it."""
_PRINT_CHARS: Final = 16
"""Of a fingerprint: enough to tell two requests of one key apart."""
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
class Conflicting:
    """The same job was counted already, for a request that asked something else under its key."""


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


class Ended(NamedTuple):
    """What a job really took."""

    job_id: JobId
    tokens: int
    micro_usd: int
    at: datetime


class _Asking:
    """Jobs that ask under the same rules in the same moment."""

    __slots__ = ("answers", "args")

    def __init__(self) -> None:
        self.args: list[RedisArg] = []
        self.answers: list[asyncio.Future[Any]] = []

    def answer(self, call: asyncio.Future[Any]) -> None:
        error = None if call.cancelled() else call.exception()
        found = None if call.cancelled() or error is not None else call.result()
        for number, waiting in enumerate(self.answers):
            if waiting.done():
                continue  # nobody waits any more: what was reserved lapses
            if found is not None:
                waiting.set_result(found[number])
            elif error is not None:
                waiting.set_exception(error)
            else:
                waiting.cancel()


class Reservations:
    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self.may_lapse = False
        """Whether the ledger has read how jobs ended: what it did not hear of may be free again."""
        self._asking: dict[tuple[AccountId, RuleSet], _Asking] = {}
        self._over: dict[tuple[AccountId, tuple[str, ...]], list[JobId]] = {}
        self._calls: set[asyncio.Future[Any]] = set()
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
        fingerprint: str = "",
    ) -> Reserved | Refused | Unknown | Conflicting:
        """All rules or none. The same job again is granted what it has. Raises RedisError.

        `fingerprint`: hexadecimal; of what is asked under an Idempotency-Key, which several may do at once.
        """
        asking = self._asking.get((account, rules))
        if asking is None or len(asking.answers) >= _MOST_AT_ONCE:
            asking = self._asking[account, rules] = _Asking()
            asyncio.get_running_loop().call_soon(self._ask, account, rules, asking)
        asking.args += job_id, lapse_ms, tokens, micro_usd, mode.value, fingerprint[:_PRINT_CHARS]
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asking.answers.append(waiting)
        answer = await waiting
        if answer[0] == b"ok":
            _, r, requests, requests_reset, t, of_tokens, tokens_reset = answer
            return Reserved(
                Left(rules.rules[r - 1], requests, requests_reset) if r else None,
                Left(rules.rules[t - 1], of_tokens, tokens_reset) if t else None,
            )
        if answer[0] == b"held":
            return Reserved(before=True)
        if answer[0] == b"conflict":
            return Conflicting()
        if answer[0] == b"unknown":
            return Unknown(answer[1].decode())
        _, number, used, wait_ms = answer
        return Refused(rules.rules[number - 1], used, wait_ms / 1000)

    async def release(self, account: AccountId, job_id: JobId) -> None:
        """Of a request that became no job; what others with its key hold stays. Raises RedisError."""
        await self._call("release", account, job_id)

    async def settle(
        self, account: AccountId, job_id: JobId, *, tokens: int, micro_usd: int, ended_at: datetime
    ) -> list[Count]:
        """Raises RedisError. Once: again changes nothing, and answers nothing."""
        return await self.settle_all(account, [Ended(job_id, tokens, micro_usd, ended_at)])

    async def settle_all(self, account: AccountId, ended: Sequence[Ended]) -> list[Count]:
        """The same for many, in their order. Told is how the counts stand after all of them."""
        calls = []
        for first in range(0, len(ended), _MOST_AT_ONCE):
            args: list[RedisArg] = []
            for one in ended[first : first + _MOST_AT_ONCE]:
                args += one.job_id, one.tokens, one.micro_usd, int(one.at.timestamp() * 1000)
            calls.append(self._call("settle", account, *args))
        return [
            Count(subject.decode(), kind.decode(), period, used, limit)
            for found in await asyncio.gather(*calls)
            for subject, kind, period, used, limit in found
        ]

    def note_over(self, account: AccountId, subjects: tuple[str, ...], job_id: JobId) -> None:
        """The call is over though not settled yet: its place among those at once is free when the next job
        asks under the same rules, or by `end_calls`.
        """
        self._over.setdefault((account, subjects), []).append(job_id)

    @property
    def has_over(self) -> bool:
        return bool(self._over)

    async def end_calls(self) -> None:
        """Raises RedisError."""
        over, self._over = self._over, {}
        commands: list[tuple[RedisArg, ...]] = [
            ("ZREM", keyspace.calls_at_once(account, subject), *jobs)
            for (account, subjects), jobs in over.items()
            for subject in subjects
        ]
        if commands:
            await self._link.execute_many(commands)

    async def look(self) -> None:
        """Whether the ledger reads on, every LOOK_SECONDS. Raises RedisError."""
        try:
            self.may_lapse = bool(await self._link.execute("EXISTS", keyspace.LEDGER_CURRENT))
        except BaseException:
            self.may_lapse = False
            raise

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
        answer = await self._call("counted", account, rules.wire, int(self.may_lapse))
        if answer[0] == b"unknown":
            return Unknown(answer[1].decode())
        numbers = answer[1:]
        return [Counted(rule, *numbers[3 * index : 3 * index + 3]) for index, rule in enumerate(rules.rules)]

    async def passed(self, account: AccountId) -> list[Count]:
        """Those that settlements left above half of their limit; their period may be over.

        Raises RedisError.
        """
        flat: list[bytes] = await self._link.execute("HGETALL", keyspace.passed(account))
        found = []
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            subject, _, kind = name.decode().rpartition("\t")
            period, used, limit = map(int, value.split(b","))
            found.append(Count(subject, kind, period, used, limit))
        return found

    def _ask(self, account: AccountId, rules: RuleSet, asking: _Asking) -> None:
        if self._asking.get((account, rules)) is asking:
            del self._asking[account, rules]
        over = self._take_over(account, rules.calls)
        args = rules.wire, int(self.may_lapse), len(over), *over, *asking.args

        def done(call: asyncio.Future[Any]) -> None:
            self._calls.discard(call)
            failed = call.cancelled() or call.exception() is not None
            if failed and not call.cancelled() and isinstance(call.exception(), NoScriptError):
                self._follow(asyncio.ensure_future(self._call("reserve", account, *args)), done)
                return
            if over and failed:
                # Nobody was told: again with the next job, or with the next that ends.
                self._over.setdefault((account, rules.calls), []).extend(over)
            asking.answer(call)

        self._follow(self._start("reserve", account, *args), done)

    def _follow(self, call: asyncio.Future[Any], done: Callable[[asyncio.Future[Any]], None]) -> None:
        self._calls.add(call)
        call.add_done_callback(done)

    def _take_over(self, account: AccountId, subjects: tuple[str, ...]) -> list[JobId]:
        waiting = self._over.get((account, subjects))
        if waiting is None:
            return []
        taken = waiting[:_MOST_AT_ONCE]
        del waiting[:_MOST_AT_ONCE]
        if not waiting:
            del self._over[account, subjects]
        return taken

    def _start(self, name: str, account: AccountId, *args: RedisArg) -> asyncio.Future[Any]:
        """As `_call`, which has to follow where the server does not know the script."""
        return self._link.start("EVALSHA", self._shas[name], 1, keyspace.holds(account), *args)

    async def _call(self, name: str, account: AccountId, *args: RedisArg) -> Any:
        key = keyspace.holds(account)
        try:
            return await self._link.execute("EVALSHA", self._shas[name], 1, key, *args)
        except NoScriptError:
            return await self._link.execute("EVAL", self._scripts[name], 1, key, *args)


def source(name: str) -> str:
    """The script with the shared part in front, and what lets those that end a hold run on a full server."""
    text = "".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("counts", name))
    return ALLOW_OOM + text if name in _ALSO_WHEN_FULL else text


def day_number(moment: datetime) -> int:
    """As the scripts count days."""
    return int(moment.timestamp() // 86_400)


def month_number(moment: datetime) -> int:
    at = moment.astimezone(UTC)
    return at.year * 12 + at.month - 1
