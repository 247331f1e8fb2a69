"""The judge sees what it is there to see, and nothing in a clean history."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos import checker
from tests.chaos.checker import Violation
from tests.chaos.history import Call, Ending, Exchange, History, Kill, LedgerRow, StoredJob, StreamEvent

TEXT = "one two three four"


def an_answer(name: str = "a-1", **changes: object) -> Exchange:
    answer = Exchange(
        name=name,
        stream=False,
        expected=TEXT,
        began_at=1.0,
        ended_at=2.0,
        ending=Ending.WHOLE,
        status=200,
        job=f"job_{name}",
        body='{"said": 1}',
        text=TEXT,
    )
    return replace(answer, **changes)  # type: ignore[arg-type]  # any field, by name


def a_stream(*said: str, ending: Ending = Ending.WHOLE, ids: list[int] | None = None) -> Exchange:
    events = [
        StreamEvent(n, f'{{"id":"{word}"}}') for n, word in zip(ids or range(1, 99), said, strict=False)
    ]
    if ending is Ending.WHOLE:
        events.append(StreamEvent(None, "[DONE]"))
    return an_answer(
        stream=True,
        ending=ending,
        text=" ".join(said),
        body="",
        events=tuple(events),
        finishes=int(ending is Ending.WHOLE),
    )


def a_call(job: str, opened_at: float, closed_at: float | None = None, outcome: str = "complete") -> Call:
    return Call("a-1", job, opened_at, closed_at, outcome)


def a_kill(at: float, *jobs: str, recovered_after: float | None = 1.0) -> Kill:
    recovered = {} if recovered_after is None else dict.fromkeys(jobs, at + recovered_after)
    return Kill(at, "worker-1", "W3", frozenset(jobs), recovered)


def what(violations: list[Violation]) -> list[str]:
    return [violation.what for violation in violations]


# answers


def test_a_whole_answer_is_clean() -> None:
    exchanges = [an_answer(), a_stream("one", "two", "three", "four")]

    assert checker.unanswered(exchanges) == []
    assert checker.misread(exchanges) == []


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.LOST, Ending.ERROR])
def test_a_missing_answer_is_found(ending: Ending) -> None:
    exchanges = [an_answer("a-1"), an_answer("a-2", ending=ending)]

    assert [(v.what, v.who) for v in checker.unanswered(exchanges)] == [("missing answer", "a-2")]
    assert checker.unanswered(exchanges, excused=lambda e: e.name == "a-2") == []


def test_a_silent_cut_has_no_excuse() -> None:
    cut = a_stream("one", "two", ending=Ending.CUT)

    assert what(checker.unanswered([cut], excused=lambda _: True)) == ["silent cut"]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (["one", "two", "four"], "missing text"),
        (["one", "two", "two", "three", "four"], "doubled text"),
        (["one", "three", "two", "four"], "reordered text"),
        (["one", "two", "three", "four", "five"], "doubled text"),
        (["one", "two", "thr", "ee", "four"], "doubled text"),
        ([], "missing text"),
    ],
)
def test_a_stream_that_says_something_else_is_found(said: list[str], fault: str) -> None:
    assert what(checker.misread([a_stream(*said)])) == [fault]


def test_a_broken_stream_must_hold_a_start_of_the_text() -> None:
    assert checker.misread([a_stream("one", "two", ending=Ending.ERROR)]) == []
    assert what(checker.misread([a_stream("two", "three", ending=Ending.ERROR)])) == ["missing text"]


def test_answers_of_other_callers_are_found() -> None:
    assert what(checker.misread([an_answer(text="five six")])) == ["wrong text"]


def test_event_ids_out_of_order_are_found() -> None:
    swapped = a_stream("one", "two", "three", "four", ids=[1, 3, 2, 4])
    skipped = a_stream("one", "two", "three", "four", ids=[1, 2, 4, 5])

    assert what(checker.misread([swapped, skipped])) == ["event ids not in order"] * 2


def test_two_ends_are_found() -> None:
    whole = a_stream("one", "two", "three", "four")
    done_twice = replace(whole, events=(*whole.events, StreamEvent(None, "[DONE]")))
    more_after_done = replace(whole, events=(*whole.events, StreamEvent(5, '{"id":"x"}')))
    finished_twice = replace(whole, finishes=2)

    assert what(checker.misread([done_twice])) == ["doubled end"]
    assert what(checker.misread([more_after_done])) == ["doubled end"]
    assert what(checker.misread([finished_twice])) == ["doubled end"]


# results


def test_a_result_that_changed_after_it_was_read_is_found() -> None:
    answer = an_answer()
    same = {"job_a-1": StoredJob("job_a-1", "succeeded", answer.body, ())}
    other = {"job_a-1": StoredJob("job_a-1", "succeeded", '{"said": 2}', ())}

    assert checker.changed_answers([answer], same) == []
    assert what(checker.changed_answers([answer], other)) == ["answer changed"]


def test_a_job_that_vanished_or_never_ended_is_found() -> None:
    answer = an_answer()
    running = {"job_a-1": StoredJob("job_a-1", "running", answer.body, ())}

    assert what(checker.changed_answers([answer], {})) == ["job vanished"]
    assert what(checker.changed_answers([answer], running)) == ["job never ended"]


def test_a_stream_that_differs_from_its_log_is_found() -> None:
    stream = a_stream("one", "two", "three", "four")
    log = tuple(event.data for event in stream.events[:-1])

    def stored(*events: str) -> dict[str, StoredJob]:
        return {"job_a-1": StoredJob("job_a-1", "succeeded", "", events)}

    assert checker.changed_answers([stream], stored(*log)) == []
    assert what(checker.changed_answers([stream], stored(*log, '{"id":"five"}'))) == ["answer changed"]
    assert what(checker.changed_answers([stream], stored(*log[:2], '{"id":"x"}', log[3]))) == [
        "answer changed"
    ]


# calls


def test_one_call_a_job_is_clean() -> None:
    calls = [a_call("j1", 1.0, 2.0), a_call("j2", 1.0, 2.0)]

    assert checker.surplus_calls(calls, []) == []
    assert checker.count_calls(calls, []).extra == 0


def test_an_extra_call_without_a_kill_is_found() -> None:
    calls = [a_call("j1", 1.0, 2.0), a_call("j1", 3.0, 4.0)]

    assert what(checker.surplus_calls(calls, [])) == ["extra provider call"]
    assert what(checker.surplus_calls(calls, [a_kill(1.5, "j2")])) == ["extra provider call"]


def test_a_call_that_the_provider_refused_may_be_repeated() -> None:
    refused = replace(a_call("j1", 1.0, 2.0), refused=True)

    assert checker.surplus_calls([refused, a_call("j1", 3.0, 4.0)], []) == []
    assert checker.count_calls([refused, a_call("j1", 3.0, 4.0)], []).extra == 0


def test_a_call_that_a_kill_interrupted_may_be_repeated_once() -> None:
    killed = [a_kill(1.5, "j1")]
    twice = [a_call("j1", 1.0, 1.5, "client_closed"), a_call("j1", 5.0, 6.0)]

    assert checker.surplus_calls(twice, killed) == []
    assert checker.count_calls(twice, killed).open_at_kills == 1
    assert what(checker.surplus_calls([*twice, a_call("j1", 7.0, 8.0)], killed)) == ["extra provider call"]


def test_a_kill_before_the_call_was_made_excuses_nothing() -> None:
    calls = [a_call("j1", 5.0, 6.0), a_call("j1", 7.0, 8.0)]

    assert what(checker.surplus_calls(calls, [a_kill(1.5, "j1")])) == ["extra provider call"]


def test_a_frozen_worker_may_call_once_when_it_wakes() -> None:
    frozen = replace(a_kill(1.5, "j1"), point=checker.FREEZE)
    calls = [a_call("j1", 3.6, 4.0), a_call("j1", 3.7, 3.71, "client_closed")]

    assert checker.surplus_calls(calls, [frozen]) == []
    assert what(checker.surplus_calls([*calls, a_call("j1", 7.0, 8.0)], [frozen])) == ["extra provider call"]
    assert what(checker.surplus_calls(calls, [replace(frozen, in_flight=frozenset())]))


def test_a_call_that_was_on_its_way_when_the_kill_came_was_met_by_it() -> None:
    calls = [a_call("j1", 1.502, 1.8), a_call("j1", 5.0, 6.0)]

    assert checker.surplus_calls(calls, [a_kill(1.5, "j1")]) == []


def test_two_kills_during_one_call_excuse_one_repetition() -> None:
    kills = [a_kill(1.5, "j1"), a_kill(4.0, "j1")]
    calls = [a_call("j1", 1.0, 1.5, "client_closed"), a_call("j1", 6.0, 7.0), a_call("j1", 8.0, 9.0)]

    assert checker.surplus_calls(calls[:2], kills) == []
    assert what(checker.surplus_calls(calls, kills)) == ["extra provider call"]


def test_more_calls_than_deliveries_are_found() -> None:
    kills = [a_kill(at + 0.5, "j1") for at in (1, 5, 9)]
    calls = [a_call("j1", at, at + 0.5, "client_closed") for at in (1.0, 5.0, 9.0)]

    assert checker.surplus_calls(calls, kills) == []
    assert what(checker.surplus_calls([*calls, a_call("j1", 13.0, 14.0)], kills)) == ["extra provider call"]


def test_a_call_that_was_answered_but_not_recorded_is_counted_apart() -> None:
    count = checker.count_calls([a_call("j1", 1.0, 1.2)], [a_kill(1.5, "j1")])

    assert (count.open_at_kills, count.unrecorded_at_kills) == (0, 1)


# recovery


def test_a_late_recovery_is_found() -> None:
    assert checker.late_recoveries([a_kill(1.0, "j1", recovered_after=5.9)], within=6.0) == []
    assert what(checker.late_recoveries([a_kill(1.0, "j1", recovered_after=6.1)], within=6.0)) == [
        "late recovery"
    ]
    assert what(checker.late_recoveries([a_kill(1.0, "j1", recovered_after=None)], within=6.0)) == [
        "late recovery"
    ]


def test_a_second_kill_of_the_same_job_starts_the_clock_again() -> None:
    kills = [a_kill(1.0, "j1", recovered_after=9.0), a_kill(5.0, "j1", recovered_after=5.0)]

    assert checker.late_recoveries(kills, within=6.0) == []
    assert what(checker.late_recoveries(kills, within=3.0)) == ["late recovery"]


def test_a_job_that_two_kills_met_may_wait_for_its_turn() -> None:
    kills = [a_kill(1.0, "j1"), a_kill(20.0, "j1", recovered_after=9.0)]

    assert checker.late_recoveries(kills, within=6.0) == []
    assert what(checker.late_recoveries(kills[1:], within=6.0)) == ["late recovery"]


def test_recovery_is_measured_on_jobs_that_one_kill_met() -> None:
    kills = [
        a_kill(1.0, "j1", "j2", recovered_after=2.0),
        a_kill(2.0, "j2", "j3", recovered_after=1.0),
    ]

    assert checker.recovery_seconds(kills) == [1.0, 2.0]


def test_a_kill_excuses_only_a_stream_that_was_read_in_part_and_told() -> None:
    told = StreamEvent(None, '{"error":{"code":"stream_interrupted"}}')
    stream = a_stream("one", "two", ending=Ending.ERROR)
    interrupted = replace(stream, code="stream_interrupted", events=(*stream.events, told))

    assert checker.interrupted_by_a_kill(interrupted, 1)
    assert not checker.interrupted_by_a_kill(interrupted, 0)
    assert not checker.interrupted_by_a_kill(replace(interrupted, events=(told,)), 1)
    assert not checker.interrupted_by_a_kill(replace(interrupted, ending=Ending.REFUSED), 1)
    assert not checker.interrupted_by_a_kill(replace(interrupted, code="provider_timeout"), 1)


def test_a_job_is_set_aside_after_three_kills_and_not_before() -> None:
    poison = an_answer(ending=Ending.REFUSED, status=500, code="poison")

    assert checker.explained_by_kills(poison, 3)
    assert not checker.explained_by_kills(poison, 2)
    assert checker.set_aside([poison, an_answer("a-2")]) == 1


# ledger


def test_every_job_is_charged_exactly_once() -> None:
    exchanges = [an_answer("a-1"), an_answer("a-2")]
    rows = [LedgerRow(f"job_{e.name}", e.name, "succeeded") for e in exchanges]

    assert checker.ledger_faults(rows, exchanges) == []
    assert what(checker.ledger_faults(rows[:1], exchanges)) == ["ledger row missing"]
    assert what(checker.ledger_faults([*rows, rows[0]], exchanges)) == ["ledger row doubled"]
    assert what(checker.ledger_faults(rows, exchanges[:1])) == ["ledger row of nobody"]
    assert what(checker.ledger_faults([rows[0], replace(rows[1], job="job_x")], exchanges)) == [
        "ledger row of another job"
    ]


def test_a_caller_who_was_told_nothing_may_or_may_not_be_charged() -> None:
    refused = an_answer(ending=Ending.REFUSED, job=None)
    row = LedgerRow("job_x", refused.name, "succeeded")

    assert what(checker.ledger_faults([], [refused])) == ["ledger row missing"]
    assert checker.ledger_faults([], [refused], orphans=lambda _: True) == []
    assert checker.ledger_faults([row], [refused], orphans=lambda _: True) == []


def test_what_is_left_in_the_queue_is_found() -> None:
    assert checker.leftovers(History()) == []
    assert what(checker.leftovers(History(left_in_lanes=3))) == ["entries left behind"]
