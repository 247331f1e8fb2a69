"""When a webhook is tried again: what is published, and what receivers ask for."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest

from shared.webhooks.schedule import LONGEST_WISH, SCHEDULE, pause_after


def test_the_schedule_is_the_published_one() -> None:
    seconds = [pause.total_seconds() for pause in SCHEDULE]

    assert seconds == [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]


def test_each_failure_waits_its_pause_and_up_to_a_tenth_more() -> None:
    rng = Random(1)
    for failures, pause in enumerate(SCHEDULE, 1):
        waits = [pause_after(failures, rng=rng) for _ in range(200)]

        assert all(wait is not None and pause <= wait <= pause * 1.1 for wait in waits)
        assert len(set(waits)) > 100


def test_after_the_last_it_is_given_up() -> None:
    assert pause_after(len(SCHEDULE) + 1, rng=Random(1)) is None
    assert pause_after(len(SCHEDULE) + 1, rng=Random(1), wished_seconds=5) is None
    assert pause_after(1, rng=Random(1), schedule=()) is None


@pytest.mark.parametrize(("wished", "waits"), [(0, 5), (3, 5), (60, 60), (3600, 3600)])
def test_a_receiver_may_ask_for_more_time_but_not_for_less(wished: float, waits: float) -> None:
    pause = pause_after(1, rng=Random(1), wished_seconds=wished)

    assert pause is not None
    assert timedelta(seconds=waits) <= pause <= timedelta(seconds=max(waits, 5.5))


def test_nobody_asks_for_more_than_a_day() -> None:
    assert timedelta(days=1) == LONGEST_WISH
