"""What the duties of a scheduler tell of their rounds."""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger

OnRound = Callable[[bool], None]
"""After each round of a duty: whether it did what it was for."""


def unheard(_: bool) -> None:
    """For whoever wants to hear nothing."""


class Failures:
    """Of rounds in a row: the first is a warning in the log, and then every twentieth."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0

    def note(self, error: BaseException) -> None:
        self._count += 1
        if self._count == 1 or self._count % 20 == 0:
            logger.warning(self._what, error=type(error).__name__, failures=self._count)

    def end(self) -> None:
        self._count = 0
