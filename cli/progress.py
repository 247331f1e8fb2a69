"""How far something is, on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Final

_LINE_SECONDS: Final = 10.0
_BAR_SECONDS: Final = 0.1
_BAR_CELLS: Final = 30


class Progress:
    """`label`: what is done, before every line."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._is_terminal = sys.stderr.isatty()
        self._shown_at = 0.0
        self._width = 0

    def show(self, done: int, total: int, text: str, *, last: bool = False) -> None:
        """`last` is shown whatever was shown just before."""
        every = _BAR_SECONDS if self._is_terminal else _LINE_SECONDS
        if not last and time.monotonic() - self._shown_at < every:
            return
        self._shown_at = time.monotonic()
        if not self._is_terminal:
            sys.stderr.write(f"{self._label}: {text}\n")
        else:
            cells = _BAR_CELLS * min(done, total) // total if total else 0
            line = f"{self._label} [{'#' * cells}{'.' * (_BAR_CELLS - cells)}] {text}"
            # Over what is left of a longer line.
            sys.stderr.write(f"\r{line.ljust(self._width)}" + ("\n" if last else ""))
            self._width = len(line)
        sys.stderr.flush()
