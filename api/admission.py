"""HOT PATH. Whether a caller may have one more job: the limits of its key, its user and its account.

    rules_of(principal) ──> admit ──> Admitted ──> the job is queued and runs ──> settled by the ledger
                              │          └──> take_back() where it never became a job
                              └──> RateLimited, QuotaExceeded; Overloaded where nobody can count

Callers without limits cost nothing here: no rule, no round trip.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from functools import lru_cache
from typing import Any, Final

from loguru import logger
from redis.exceptions import OutOfMemoryError, RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.responses import RawHeaders
from shared.clock import Clock, SystemClock
from shared.db.engine import DATABASE_ERRORS
from shared.db.repositories import usage
from shared.domain.allowance import Allowance, Scope
from shared.domain.job import Job, JobKind, Target
from shared.domain.principal import Principal
from shared.domain.usage import Usage
from shared.errors import BrokerError, Overloaded, QueueFull, QuotaExceeded, RateLimited, TooManyRequests
from shared.ids import AccountId, JobId
from shared.limits.reservations import LedgerCounts, Left, Mode, Refused, Reservations, Reserved, Unknown
from shared.limits.rules import Policies, Rule, RuleSet
from shared.money import MICRO_PER_USD
from shared.providers.catalogue import Catalogue
from shared.settings import Settings

LEDGER_SECONDS: Final = 2.0
"""How long a request waits for what the ledger says, the first time an allowance is counted."""
_REMEMBERED: Final = 50_000
_GATHER_SECONDS: Final = 0.005
_MOST: Final = 10**12
"""Tokens or micro-dollars of one request: sums of these are still exact in a script's numbers."""
_BYTES_A_TOKEN: Final = 3
"""Fewer than any usual text has, so that the estimate is an upper one."""
_RETRY_SOON_SECONDS: Final = 60.0
"""What the official clients wait for by themselves."""
_NOTHING_GENERATED: Final = frozenset({JobKind.EMBEDDINGS, JobKind.RERANK, JobKind.COUNT_TOKENS})
_ANSWER_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens", "max_length")
_WHAT: Final = {"r": "requests", "t": "tokens", "c": "requests at once"}
_PERIOD: Final = {"d": "requests of this day", "m": "requests of this month", "s": "of this month's budget"}


NO_RULES: Final = RuleSet(())


@dataclass(frozen=True, slots=True)
class Estimate:
    """At most, as far as anybody can tell before."""

    tokens: int
    micro_usd: int


class Admitted:
    """One request that may become a job. `headers`: how its caller's limits stand."""

    __slots__ = ("_admission", "_job", "_rules", "headers")

    def __init__(
        self, admission: Admission | None, job: Job | None, rules: RuleSet, headers: RawHeaders
    ) -> None:
        self._admission = admission
        self._job = job
        self._rules = rules
        self.headers = headers

    def take_back(self) -> None:
        """It did not become a job of its own."""
        if self._admission is not None and self._job is not None and self._rules.holds:
            self._admission.release_later(self._job)

    def end(self) -> None:
        """The job ended: its places among those at once need not wait for the ledger."""
        if self._admission is not None and self._job is not None and self._rules.counts_calls:
            self._admission.end_later(self._job, self._rules)


FREE: Final = Admitted(None, None, NO_RULES, [])
"""Of a caller without limits."""


@dataclass(slots=True)
class Admission:
    """One a process."""

    reservations: Reservations
    database: AsyncEngine
    catalogue: Catalogue
    policies: Policies
    settings: Settings
    clock: Clock = field(default_factory=SystemClock)
    _known: dict[tuple[str, bool], tuple[tuple[Allowance, ...], RuleSet]] = field(default_factory=dict)
    _later: set[asyncio.Task[None]] = field(default_factory=set)
    _ended: list[tuple[AccountId, str, JobId]] = field(default_factory=list)

    def rules_of(self, principal: Principal, *, older_route: bool) -> RuleSet:
        allowances = principal.allowances
        if not allowances:
            return NO_RULES
        caller = (principal.api_key, older_route)
        known = self._known.get(caller)
        if known is not None and known[0] is allowances:
            return known[1]
        rules = self.policies.rules(allowances, principal.api_key, older_route=older_route)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[caller] = allowances, rules
        return rules

    def estimate(
        self, plan: Sequence[Target], kind: JobKind, document: Mapping[str, Any], body_bytes: int
    ) -> Estimate:
        """Of the dearest target; what a request does not limit is limited by its model or by a setting."""
        prompt = 1 + body_bytes // _BYTES_A_TOKEN
        tokens = cost = 0
        for target in plan:
            prices = self.catalogue.prices(target.provider, target.model)
            answer = 0 if kind in _NOTHING_GENERATED else self._longest_answer(target, document)
            tokens = max(tokens, prompt + answer)
            if prices is not None and kind is not JobKind.COUNT_TOKENS:
                cost = max(cost, prices.cost_micro_usd(Usage(prompt, answer)))
        return Estimate(min(tokens, _MOST), min(cost, _MOST))

    async def admit(self, rules: RuleSet, job: Job, estimate: Estimate, mode: Mode = Mode.CHECK) -> Admitted:
        """Raises TooManyRequests, RateLimited, QuotaExceeded, or Overloaded."""
        of, asked_again = rules, False
        lapse_ms = job.budget_ms + int(self.settings.limits.hold_seconds * 1000)
        try:
            while True:
                answer = await self.reservations.reserve(
                    job.account,
                    job.id,
                    of,
                    tokens=estimate.tokens,
                    micro_usd=estimate.micro_usd,
                    lapse_ms=lapse_ms,
                    mode=mode,
                )
                if isinstance(answer, Reserved):
                    # Where there was a reservation already, somebody else's, it is not ours to take back.
                    ours = mode is Mode.CHECK and not answer.before
                    return Admitted(self, job, of if ours else NO_RULES, limit_headers(answer))
                if isinstance(answer, Refused):
                    if answer.rule.kind != "c" or asked_again:
                        raise _refusal(answer)
                    # The call that its caller just saw end may still be counted, here or in another process.
                    asked_again = True
                    await asyncio.sleep(4 * _GATHER_SECONDS)
                    continue
                of = await self._with_counts(job.account, of, answer)
        except OutOfMemoryError as exc:
            raise QueueFull("The queue's memory is full.", retry_after_seconds=5) from exc
        except (RedisError, OSError, TimeoutError) as exc:
            self._refuse_uncounted({rule.scope for rule in of.rules}, exc)
            logger.warning("limits not counted", error=type(exc).__name__)
            return FREE

    async def counts_known(self, account: AccountId, subject: str) -> None:
        """Begin the calendar counts of a subject with what the ledger says. Raises what the database does."""
        scope, _, name = subject.partition(":")
        now = self.clock.now().astimezone(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        async with asyncio.timeout(LEDGER_SECONDS), self.database.connect() as connection:
            today = await usage.counts_since(connection, account, Scope(scope), name, midnight)
            month = await usage.counts_since(connection, account, Scope(scope), name, midnight.replace(day=1))
        counts = LedgerCounts(today.requests, month.requests, month.cost_micro_usd)
        await self.reservations.seed(account, subject, counts)

    def release_later(self, job: Job) -> None:
        self._start(self.reservations.release(job.account, job.id))

    def end_later(self, job: Job, rules: RuleSet) -> None:
        """With all that end in the same moment, by one command each and one wait for all."""
        if not self._ended:
            asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._end_gathered)
        self._ended += [(job.account, subject, job.id) for subject in rules.calls]

    def _end_gathered(self) -> None:
        ended, self._ended = self._ended, []
        self._start(self.reservations.end_calls(ended))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """What no caller waits for; owned here until it is done."""
        task = asyncio.create_task(_quietly(work), name="limits")
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*self._later, return_exceptions=True)

    async def _with_counts(self, account: AccountId, of: RuleSet, unknown: Unknown) -> RuleSet:
        """The rules to ask again with: all, once the ledger was read."""
        try:
            await self.counts_known(account, unknown.subject)
        except DATABASE_ERRORS as exc:
            uncounted = [rule for rule in of.rules if rule.is_calendar and rule.subject == unknown.subject]
            self._refuse_uncounted({rule.scope for rule in uncounted}, exc)
            logger.warning("budget not counted", scope=uncounted[0].scope.value, error=type(exc).__name__)
            return RuleSet(rule for rule in of.rules if rule not in uncounted)
        return of

    def _refuse_uncounted(self, scopes: set[Scope], cause: BaseException) -> None:
        limits = self.settings.limits
        policy = {
            Scope.KEY: limits.without_redis_key,
            Scope.USER: limits.without_redis_user,
            Scope.ACCOUNT: limits.without_redis_account,
        }
        if any(policy[scope] == "refuse" for scope in scopes):
            raise Overloaded("Limits cannot be counted at the moment.", retry_after_seconds=1.0) from cause

    def _longest_answer(self, target: Target, document: Mapping[str, Any]) -> int:
        most = self.settings.limits.default_completion_tokens
        known = self.catalogue.of_provider(target.provider, target.model)
        bound = known.max_output_tokens if known is not None else 0
        asked = next((n for name in _ANSWER_LIMITS if type(n := document.get(name)) is int and n > 0), None)
        answer = most if asked is None else asked
        if bound:
            answer = min(answer, bound)
        copies = document.get("n")
        return answer * copies if type(copies) is int and copies > 1 else answer


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """Reservations lapse by themselves, so what fails here is only late."""
    try:
        await work
    except (RedisError, OSError, TimeoutError) as exc:
        logger.debug("reservation not ended", error=type(exc).__name__)


def limit_headers(reserved: Reserved) -> RawHeaders:
    """The tightest limits of requests and of tokens, as OpenAI tells them and as the IETF draft does."""
    headers: RawHeaders = []
    if reserved.requests is not None:
        headers += _told(b"requests", reserved.requests)
    if reserved.tokens is not None:
        headers += _told(b"tokens", reserved.tokens)
    return headers


def _told(kind: bytes, left: Left) -> RawHeaders:
    seconds = max(1, -(-left.reset_ms // 1000))
    name, limit, policy = _fixed_headers(left.rule)
    return [
        limit,
        (b"x-ratelimit-remaining-" + kind, b"%d" % left.remaining),
        (b"x-ratelimit-reset-" + kind, b"%ds" % seconds),
        policy,
        (b"ratelimit", b"%s;r=%d;t=%d" % (name, left.remaining, seconds)),
    ]


@lru_cache(maxsize=10_000)
def _fixed_headers(rule: Rule) -> tuple[bytes, tuple[bytes, bytes], tuple[bytes, bytes]]:
    """Of a rule: its name in the draft's form, its limit, its policy."""
    kind = b"requests" if rule.kind == "r" else b"tokens"
    name = b'"%s-%s"' % (rule.scope.value.encode(), kind)
    window = b"%s;q=%d;w=%d" % (name, rule.limit, rule.window_ms // 1000)
    return name, (b"x-ratelimit-limit-" + kind, b"%d" % rule.limit), (b"ratelimit-policy", window)


def _refusal(refused: Refused) -> BrokerError:
    rule, wait = refused.rule, max(0.001, refused.wait_seconds)
    whose = f"this {rule.scope.value}"
    details = {
        "scope": rule.scope.value,
        "limit": rule.limit,
        "used": refused.used,
        "resets_in_seconds": math.ceil(wait),
    }
    error: BrokerError
    if rule.is_calendar:
        used, limit = _amount(rule, refused.used), _amount(rule, rule.limit)
        error = QuotaExceeded(
            f"{used} of {limit} {_PERIOD[rule.kind]} are used or reserved by {whose}, and this request "
            "would go beyond that.",
            details=details,
            retry_after_seconds=wait,
        )
    else:
        what = _WHAT[rule.kind]
        window = f" in {timedelta(milliseconds=rule.window_ms)}" if rule.window_ms else ""
        error = (TooManyRequests if wait <= _RETRY_SOON_SECONDS else RateLimited)(
            f"The limit of {rule.limit} {what}{window} of {whose} is reached.",
            details=details,
            retry_after_seconds=wait,
        )
        if rule.window_ms:
            kind = b"requests" if rule.kind == "r" else b"tokens"
            left = Left(rule, max(0, rule.limit - refused.used), math.ceil(wait * 1000))
            error.headers = _told(kind, left)
    return error


def _amount(rule: Rule, number: int) -> str:
    if rule.kind != "s":
        return f"{number:,}"
    return f"${number / MICRO_PER_USD:.6f}".rstrip("0").rstrip(".")
