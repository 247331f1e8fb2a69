from __future__ import annotations

import pytest

from api.prefer import MOST_SECONDS, preference_of


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        ("respond-async", 0),
        ("wait=10", 10),
        ('wait="10"', 10),
        ("WAIT = 10", 10),
        ("respond-async, wait=10", 10),
        ("return=minimal, wait=3; foo=bar", 3),
        ("wait=1, wait=2", 1),
        ("wait=999999", MOST_SECONDS),
        ("Respond-Async", 0),
    ],
)
def test_how_long_a_caller_wants_to_wait(said: str, wait: float) -> None:
    found = preference_of({"prefer": said})

    assert found is not None
    assert found.wait_seconds == wait


@pytest.mark.parametrize(
    "said", ["", "return=minimal", "wait", "wait=", "wait=-1", "wait=1.5", "wait=1e9", "handling=x"]
)
def test_what_says_nothing_of_it_is_passed_over(said: str) -> None:
    assert preference_of({"prefer": said}) is None
    assert preference_of({}) is None


def test_what_was_heeded_is_told() -> None:
    both, one = preference_of({"prefer": "respond-async,wait=5"}), preference_of({"prefer": "wait=5, foo"})

    assert both is not None
    assert one is not None
    assert (both.text, one.text) == (b"respond-async, wait=5", b"wait=5")
