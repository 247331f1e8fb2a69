"""What the log says of rounds that fail."""

from __future__ import annotations

from loguru import logger

from scheduler.rounds import Failures


def test_the_first_failure_in_a_row_is_told_and_then_every_twentieth() -> None:
    told: list[int] = []
    sink = logger.add(lambda message: told.append(message.record["extra"]["failures"]), level="WARNING")
    failures = Failures("nothing done")
    try:
        for _ in range(45):
            failures.note(OSError())
        failures.end()
        failures.note(OSError())
    finally:
        logger.remove(sink)

    assert told == [1, 20, 40, 1]
