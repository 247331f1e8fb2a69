"""What follows from each end of a step with a provider's batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.hand_over.steps import after_answer, after_failure, stopped
from shared.batches.handed_over import HandedOver, Part, PartStep, Phase
from shared.errors import BrokerError, ProviderCredentialRefused, ProviderRejected, ProviderUnavailable
from shared.providers.batch_apis import BatchState, Told
from shared.settings import BatchSettings

SETTINGS = BatchSettings(provider_poll_seconds=60, provider_cancel_seconds=900)
MARK = "batch_1.0"
NOW = 1_000.0


def a_part(step: PartStep = PartStep.SUBMIT, **more: Any) -> Part:
    part = Part("obj-requests", "obj-jobs", "/v1/messages", 2, step=step, asked=1, is_asked=True, since=900)
    return replace(part, **more)


def after(part: Part, told: Told | bytes, *, is_stopping: bool = False) -> Part:
    answer = told if isinstance(told, bytes) else told.to_wire()
    return after_answer(part, answer, MARK, SETTINGS, now=NOW, is_stopping=is_stopping)


def failed(part: Part, error: BrokerError, *, execution: str = "provider", is_stopping: bool = False) -> Part:
    return after_failure(part, error, execution, SETTINGS, now=NOW, is_stopping=is_stopping)


def unavailable() -> BrokerError:
    return ProviderUnavailable("It is away.", provider="openai")


def test_where_a_hand_over_stands_is_kept_whole() -> None:
    part = a_part(headers={"anthropic-beta": "x"}, others=("a",), results=("/r",), batch="b", problem="p")
    handed = HandedOver(Phase.RUNNING, "openai", "default", 7, held=True, stopped_at=1.5, parts=(part,))

    assert HandedOver.of(handed.to_fields()) == handed
    assert handed.keys == ("obj-requests", "obj-jobs")
    assert handed.with_part(0, part.to(PartStep.DONE)).keys == ()


def test_what_was_handed_over_is_asked_after_until_it_has_ended_and_then_fetched() -> None:
    running = after(a_part(), Told("b", BatchState.RUNNING, mark=MARK))
    ended = after(replace(running, is_asked=True), Told("b", BatchState.ENDED, results=("/r1", "/r2")))
    fetched = after(replace(ended, is_asked=True), b'{"key":"obj-results","size":9}')

    assert (running.step, running.batch, running.is_asked, running.due_at) == (
        PartStep.POLL, "b", False, NOW + 60,
    )  # fmt: skip
    assert (ended.step, ended.results) == (PartStep.FETCH, ("/r1", "/r2"))
    assert (fetched.step, fetched.results_key) == (PartStep.MAP, "obj-results")


def test_a_batch_of_which_nothing_came_is_closed_with_the_providers_words() -> None:
    nothing = after(a_part(), Told("b", BatchState.ENDED))
    refused = after(a_part(), Told("b", BatchState.FAILED, problem="No such model."))

    assert nothing.step is PartStep.CLOSE
    assert (refused.step, refused.code, refused.problem) == (
        PartStep.CLOSE, "provider_batch_failed", "No such model.",
    )  # fmt: skip


def test_only_a_batch_with_our_mark_is_certainly_ours() -> None:
    assert after(a_part(), Told("b", BatchState.RUNNING, mark=MARK)).is_certain
    assert not after(a_part(), Told("b", BatchState.RUNNING)).is_certain


@pytest.mark.parametrize(
    "error",
    [
        ProviderRejected("No.", provider="openai", status=400),
        ProviderCredentialRefused("No key.", provider="openai"),
    ],
)
def test_what_is_refused_for_good_is_not_tried_again(error: BrokerError) -> None:
    closed = failed(a_part(), error)

    assert (closed.step, closed.problem) == (PartStep.CLOSE, error.message)


def test_what_fails_for_a_while_is_tried_again_ever_later() -> None:
    part, dues = a_part(), []
    for _ in range(8):
        part = failed(replace(part, is_asked=True), unavailable())
        dues.append(part.due_at - NOW)

    assert (part.step, part.tries, part.is_asked) == (PartStep.SUBMIT, 8, False)
    assert dues == [60, 120, 240, 480, 600, 600, 600, 600]


def test_lines_that_may_be_jobs_are_none_before_it_is_known_that_no_try_came_through() -> None:
    part = a_part(tries=5)

    looking = failed(part, unavailable(), execution="auto")
    again = failed(replace(looking, is_asked=True), unavailable(), execution="auto")

    assert failed(a_part(tries=4), unavailable(), execution="auto").step is PartStep.SUBMIT
    assert failed(part, unavailable()).step is PartStep.SUBMIT
    assert (looking.step, again.step) == (PartStep.FIND, PartStep.FIND)
    assert after(looking, b"null").step is PartStep.CLOSE
    assert after(looking, Told("b", BatchState.RUNNING, mark=MARK)).step is PartStep.POLL


@pytest.mark.parametrize(
    ("part", "step"),
    [
        (a_part(asked=0, is_asked=False), PartStep.CLOSE),
        (a_part(is_asked=False), PartStep.FIND),
        (a_part(PartStep.POLL, batch="b", is_asked=False), PartStep.CANCEL),
        (a_part(PartStep.POLL, batch="b", is_asked=False, is_cancelled=True), PartStep.POLL),
        (a_part(PartStep.POLL, batch="b", is_asked=False, is_certain=False), PartStep.POLL),
        (a_part(PartStep.FETCH, batch="b", is_asked=False), PartStep.FETCH),
    ],
)
def test_one_that_is_to_end_is_cancelled_only_where_it_is_ours_and_once(part: Part, step: PartStep) -> None:
    assert stopped(part, SETTINGS, now=NOW, stopped_at=NOW).step is step
    late = stopped(part, SETTINGS, now=NOW + 901, stopped_at=NOW).step
    assert late is PartStep.CLOSE


def test_after_it_was_cancelled_it_is_asked_after_sooner() -> None:
    told = Told("b", BatchState.RUNNING)

    onward = after(a_part(PartStep.CANCEL, batch="b"), told, is_stopping=True)

    assert (onward.step, onward.is_cancelled, onward.due_at) == (PartStep.POLL, True, NOW + 5)
    assert failed(a_part(), unavailable(), is_stopping=True).step is PartStep.FIND


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"id":"b","state":"odd"}'])
@pytest.mark.parametrize("step", [PartStep.SUBMIT, PartStep.FETCH])
def test_what_is_no_answer_is_told_by_its_type(step: PartStep, answer: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        after(a_part(step), answer)
