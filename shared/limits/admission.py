"""HOT PATH. Whether a caller may have one more job: the limits of its key, its user and its account.

    rules_of(principal) ──> priced ──> admit ──> Admitted ──> the job is queued and runs ──> settled
                              │          │          └──> take_back() where it never became a job
                              │          └──> RateLimited, QuotaExceeded; Overloaded where nobody can count
                              └──> ModelUnpriced

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

from shared.clock import Clock, SystemClock
from shared.db.engine import DATABASE_ERRORS
from shared.db.repositories import usage
from shared.domain.allowance import Allowance, Scope
from shared.domain.job import Job, JobKind, Target
from shared.domain.principal import Principal
from shared.errors import (
    BrokerError,
    IdempotencyMismatch,
    Overloaded,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    TooManyRequests,
)
from shared.ids import AccountId
from shared.limits.estimates import Estimate, estimate_of
from shared.limits.priced import priced_targets
from shared.limits.reservations import (
    Conflicting,
    LedgerCounts,
    Left,
    Mode,
    Refused,
    Reservations,
    Reserved,
    Unknown,
)
from shared.limits.rules import Policies, Rule, RuleSet
from shared.money import MICRO_PER_USD
from shared.providers.catalogue import Catalogue
from shared.providers.registry import Registry
from shared.settings import Settings

LEDGER_SECONDS: Final = 2.0
"""How long a request waits for what the ledger says, the first time an allowance is counted."""
_REMEMBERED: Final = 50_000
_GATHER_SECONDS: Final = 0.005
RawHeaders = list[tuple[bytes, bytes]]
_RETRY_SOON_SECONDS: Final = 60.0
"""What the official clients wait for by themselves."""
_WHAT: Final = {"r": "requests", "t": "tokens", "c": "requests at once"}
_PERIOD: Final = {"d": "requests of this day", "m": "requests of this month", "s": "of this month's budget"}


NO_RULES: Final = RuleSet(())


class Admitted:
    """One request that may become a job. `headers`: how its caller's limits stand."""

    __slots__ = ("_admission", "_before", "_job", "_rules", "headers")

    def __init__(
        self,
        admission: Admission | None,
        job: Job | None,
        rules: RuleSet,
        headers: RawHeaders,
        *,
        before: bool = False,
    ) -> None:
        """`before`: another request with the same Idempotency-Key reserved for the job."""
        self._admission = admission
        self._job = job
        self._rules = rules
        self._before = before
        self.headers = headers

    def take_back(self) -> None:
        """It did not become a job of its own."""
        if self._admission is not None and self._job is not None and self._rules.holds:
            self._admission.release_later(self._job)

    def end(self) -> None:
        """The job ended: its places among those at once need not wait for the ledger."""
        if self._admission is None or self._job is None or self._before:
            return
        if self._rules.counts_calls:
            self._admission.end_later(self._job, self._rules)


FREE: Final = Admitted(None, None, NO_RULES, [])
"""Of a caller without limits."""


@dataclass(slots=True)
class Admission:
    """One a process."""

    reservations: Reservations
    database: AsyncEngine
    catalogue: Catalogue
    registry: Registry
    policies: Policies
    settings: Settings
    clock: Clock = field(default_factory=SystemClock)
    _known: dict[tuple[str, bool], tuple[tuple[Allowance, ...], RuleSet]] = field(default_factory=dict)
    _later: set[asyncio.Task[None]] = field(default_factory=set)
    _ending: asyncio.TimerHandle | None = None

    def rules_of(self, principal: Principal, *, older_route: bool) -> RuleSet:
        allowances = principal.allowances
        if not allowances:
            return NO_RULES
        caller = (principal.api_key, older_route)
        known = self._known.get(caller)
        if known is not None and known[0] is allowances:
            return known[1]
        counted_as = principal.counted_as or principal.api_key
        rules = self.policies.rules(allowances, counted_as, older_route=older_route)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[caller] = allowances, rules
        return rules

    def priced(self, plan: tuple[Target, ...], kind: JobKind, rules: RuleSet) -> tuple[Target, ...]:
        """What of it may run under these rules, for what it costs can be counted.

        The same tuple where nothing changes. Raises ModelUnpriced where nothing is left.
        """
        if rules.budget is None or self.settings.limits.unpriced_models == "allow":
            return plan
        return priced_targets(plan, kind, rules.budget, self.catalogue, self.registry)

    def estimate(
        self, plan: Sequence[Target], kind: JobKind, document: Mapping[str, Any], body_bytes: int
    ) -> Estimate:
        """What is reserved for it, at most."""
        return estimate_of(
            plan,
            kind,
            document,
            body_bytes,
            catalogue=self.catalogue,
            default_answer=self.settings.limits.default_completion_tokens,
        )

    async def admit(
        self,
        rules: RuleSet,
        job: Job,
        estimate: Estimate,
        mode: Mode = Mode.CHECK,
        *,
        fingerprint: str = "",
    ) -> Admitted:
        """`fingerprint`: of what is asked under an Idempotency-Key.

        Raises TooManyRequests, RateLimited, QuotaExceeded, IdempotencyMismatch, or Overloaded.
        """
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
                    fingerprint=fingerprint,
                )
                if self._ending is not None and not self.reservations.has_over:
                    # This job told of all that were over: a process that is not busy need not wake for them.
                    self._ending.cancel()
                    self._ending = None
                if isinstance(answer, Reserved):
                    ours = of if mode is Mode.CHECK else NO_RULES
                    return Admitted(self, job, ours, limit_headers(answer), before=answer.before)
                if isinstance(answer, Conflicting):
                    raise IdempotencyMismatch("This Idempotency-Key was used with a different request body.")
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
        """With the next job under these rules; with all that end in the same moment where none comes."""
        self.reservations.note_over(job.account, rules.calls, job.id)
        if self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._end_gathered)

    def _end_gathered(self) -> None:
        self._ending = None
        if self.reservations.has_over:
            self._start(self.reservations.end_calls())

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
