"""The judge: pure functions from a history to what was broken in it. Each holds one promise.

no caller misses its answer          unanswered
what it reads is right, once, whole  misread
a result never changes               changed_answers
calls are repeated only after kills  surplus_calls
recovery is quick                    late_recoveries
every job is charged once            ledger_faults
nothing is left behind               leftovers
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.history import Call, Ending, Exchange, History, Kill, LedgerRow, StoredJob

MAX_DELIVERIES: Final = 3
"""After so many workers died under a job it is set aside (HEADRACE_QUEUE__MAX_DELIVERIES)."""
SENT_SECONDS: Final = 1.0
"""A call the provider saw so soon after a kill was on its way before: nobody else had the job yet."""
FREEZE: Final = "SIGSTOP"
"""The point of a kill after which its worker wakes again."""
_TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Violation:
    """`what` is from a closed set; `who` an exchange, a job or a worker."""

    what: str
    who: str
    detail: str = ""


Excuse = Callable[[Exchange], bool]


def nobody(_: Exchange) -> bool:
    return False


def unanswered(exchanges: Iterable[Exchange], *, excused: Excuse = nobody) -> list[Violation]:
    """Who got no whole answer and had no excuse. A silent cut is never excused."""
    found: list[Violation] = []
    for exchange in exchanges:
        detail = f"{exchange.status} {exchange.code}"
        if exchange.ending is Ending.CUT:
            found.append(Violation("silent cut", exchange.name, f"after {len(exchange.text)} characters"))
        elif exchange.ending is not Ending.WHOLE and not excused(exchange):
            found.append(Violation("missing answer", exchange.name, f"{exchange.ending}: {detail}"))
    return found


def misread(exchanges: Iterable[Exchange]) -> list[Violation]:
    """Text that is not what the provider said, in order, once. A stream that broke holds a start of it."""
    found: list[Violation] = []
    for exchange in exchanges:
        if exchange.ending is Ending.REFUSED:
            continue
        whole = exchange.ending is Ending.WHOLE
        if fault := compare_text(exchange.expected, exchange.text, whole=whole):
            found.append(Violation(fault, exchange.name, f"{exchange.expected!r} read as {exchange.text!r}"))
        if exchange.stream:
            found += _stream_form(exchange, whole=whole)
    return found


def compare_text(expected: str, got: str, *, whole: bool) -> str | None:
    """What is wrong with `got`, by the characters it is made of; None when nothing is."""
    if got == expected or (not whole and expected.startswith(got)):
        return None
    wanted, seen = Counter(expected), Counter(got)
    if seen == wanted:
        return "reordered text"
    if seen > wanted:
        return "doubled text"
    return "missing text" if seen < wanted else "wrong text"


def _stream_form(exchange: Exchange, *, whole: bool) -> list[Violation]:
    found: list[Violation] = []
    ordinals = [event.ordinal for event in exchange.events if event.ordinal is not None]
    first = ordinals[0] if ordinals else 1
    if ordinals != list(range(first, first + len(ordinals))):
        found.append(Violation("event ids not in order", exchange.name, str(ordinals)))
    if whole and exchange.finishes != 1:
        found.append(Violation("doubled end", exchange.name, f"{exchange.finishes} finish reasons"))
    ends = [event.data for event in exchange.events if event.data == "[DONE]"]
    if len(ends) > 1 or (ends and exchange.events[-1].data != "[DONE]"):
        found.append(Violation("doubled end", exchange.name, f"{len(ends)} x [DONE]"))
    return found


def changed_answers(exchanges: Iterable[Exchange], stored: dict[str, StoredJob]) -> list[Violation]:
    """What the callers read is what is stored, byte for byte; every job of theirs has ended."""
    found: list[Violation] = []
    readers: dict[str, list[Exchange]] = defaultdict(list)
    for exchange in exchanges:
        if exchange.job is not None:
            readers[exchange.job].append(exchange)
    for job, reads in readers.items():
        truth = stored.get(job)
        if truth is None:
            found.append(Violation("job vanished", job))
            continue
        if truth.state not in _TERMINAL:
            found.append(Violation("job never ended", job, truth.state))
        for exchange in reads:
            if not exchange.stream:
                if exchange.ending is Ending.WHOLE and exchange.body != truth.body:
                    found.append(Violation("answer changed", exchange.name, job))
                continue
            data = tuple(e.data for e in exchange.events if e.data != "[DONE]" and not _is_error(e.data))
            first = next((e.ordinal for e in exchange.events if e.ordinal is not None), None) or 1
            if data != truth.events[first - 1 : first - 1 + len(data)]:
                found.append(Violation("answer changed", exchange.name, job))
            elif exchange.ending is Ending.WHOLE and first - 1 + len(data) != len(truth.events):
                found.append(Violation("answer changed", exchange.name, f"{job}: the log is longer"))
    return found


def _is_error(data: str) -> bool:
    return data.startswith('{"error"') and "error" in json.loads(data)


@dataclass(frozen=True, slots=True)
class CallCount:
    """`extra`: calls beyond one a job, those aside that the provider refused.

    `open_at_kills`: calls that were open at the provider when their worker died;
    `unrecorded_at_kills`: answered, but their worker died before it could say so.
    """

    calls: int
    extra: int
    open_at_kills: int
    unrecorded_at_kills: int


def count_calls(calls: Sequence[Call], kills: Sequence[Kill]) -> CallCount:
    by_job = _by_job(calls)
    open_at_kills = unrecorded = 0
    for kill in kills:
        for job in kill.in_flight:
            call = _last_before(by_job.get(job, ()), kill, kills)
            if call is None:
                continue
            if call.closed_at is None or call.closed_at >= kill.at or call.outcome == "client_closed":
                open_at_kills += 1
            else:
                unrecorded += 1
    return CallCount(
        calls=len(calls),
        extra=sum(map(len, by_job.values())) - len(by_job),
        open_at_kills=open_at_kills,
        unrecorded_at_kills=unrecorded,
    )


def surplus_calls(calls: Sequence[Call], kills: Sequence[Kill]) -> list[Violation]:
    """Jobs called more often than once, and once more for each kill that met a call of theirs.

    Summed up: extra calls never exceed the calls that kills interrupted. A worker that is frozen
    between beginning a job and calling for it calls when it wakes, wherever the job runs by then.
    """
    found: list[Violation] = []
    for job, made in _by_job(calls).items():
        met = sum(
            job in kill.in_flight and (kill.point == FREEZE or _last_before(made, kill, kills) is not None)
            for kill in kills
        )
        if len(made) > 1 + met:
            found.append(Violation("extra provider call", job, f"{len(made)} calls, {met} met by a kill"))
        if len(made) > MAX_DELIVERIES:
            found.append(Violation("extra provider call", job, f"{len(made)} calls of {MAX_DELIVERIES}"))
    return found


def _by_job(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """Without those that the provider refused: trying again is the promise there."""
    by_job: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if not call.refused:
            by_job[call.job].append(call)
    return by_job


def _last_before(made: Iterable[Call], kill: Kill, kills: Sequence[Kill]) -> Call | None:
    """The call that `kill` met: opened before it, and after the kill before that of the same job."""
    mine = [call for call in made if call.opened_at <= kill.at + SENT_SECONDS]
    if not mine:
        return None
    last = max(mine, key=lambda call: call.opened_at)
    met_before = any(
        other.at < kill.at and last.job in other.in_flight and last.opened_at <= other.at + SENT_SECONDS
        for other in kills
    )
    return None if met_before else last


def late_recoveries(kills: Sequence[Kill], *, within: float) -> list[Violation]:
    """Jobs of a killed worker not seen running elsewhere, or ended, `within` seconds.

    A second kill that met the job within that time starts the clock again. A job that one more
    kill would set aside is not held to it: such jobs run one at a time.
    """
    found: list[Violation] = []
    for kill in kills:
        for job in kill.in_flight:
            if met_by([other for other in kills if other.at <= kill.at], job) >= MAX_DELIVERIES - 1:
                continue
            recovered_at = kill.recovered_at.get(job)
            if recovered_at is not None and recovered_at - kill.at <= within:
                continue
            again = any(
                other is not kill and job in other.in_flight and kill.at <= other.at <= kill.at + within
                for other in kills
            )
            if not again:
                took = "never" if recovered_at is None else f"{recovered_at - kill.at:.2f} s"
                found.append(Violation("late recovery", job, f"{kill.point} of {kill.worker}: {took}"))
    return found


def recovery_seconds(kills: Sequence[Kill]) -> list[float]:
    """How long each job that exactly one kill met took to run elsewhere, shortest first."""
    return sorted(
        at - kill.at for kill in kills for job, at in kill.recovered_at.items() if met_by(kills, job) == 1
    )


def interrupted_by_a_kill(exchange: Exchange, met: int) -> bool:
    """Whether a kill explains how the stream ended: its caller had read a part, and was told."""
    told = exchange.ending is Ending.ERROR and exchange.code == "stream_interrupted"
    return told and len(exchange.events) > 1 and met > 0


def explained_by_kills(exchange: Exchange, met: int) -> bool:
    """The only two ends but an answer that kills may bring, `met` of them having met the job."""
    was_set_aside = exchange.code == "poison" and met >= MAX_DELIVERIES
    return was_set_aside or interrupted_by_a_kill(exchange, met)


def set_aside(exchanges: Iterable[Exchange]) -> int:
    """Jobs given up because workers kept dying under them."""
    return sum(exchange.code == "poison" for exchange in exchanges)


def met_by(kills: Sequence[Kill], job: str | None) -> int:
    """How many kills found the job in flight."""
    return sum(job in kill.in_flight for kill in kills)


def ledger_faults(
    ledger: Sequence[LedgerRow], exchanges: Sequence[Exchange], *, orphans: Excuse = nobody
) -> list[Violation]:
    """Exactly one row for every exchange, for the job its caller was told of, and none of anybody else.

    `orphans`: callers who were told nothing, so that their job may have been accepted or not.
    """
    found: list[Violation] = []
    rows: dict[str, list[LedgerRow]] = defaultdict(list)
    for row in ledger:
        rows[row.request].append(row)
    for exchange in exchanges:
        mine = rows.pop(exchange.name, [])
        if not mine and not orphans(exchange):
            found.append(Violation("ledger row missing", exchange.name, str(exchange.job)))
        elif len(mine) > 1:
            found.append(Violation("ledger row doubled", exchange.name, f"{len(mine)} rows"))
        elif mine and exchange.job not in {None, mine[0].job}:
            found.append(Violation("ledger row of another job", exchange.name, mine[0].job))
    found += [Violation("ledger row of nobody", request, mine[0].job) for request, mine in rows.items()]
    return found


def leftovers(history: History) -> list[Violation]:
    if history.left_in_lanes:
        return [Violation("entries left behind", "queue", str(history.left_in_lanes))]
    return []
