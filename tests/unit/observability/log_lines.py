"""The log of a test: configured as in production, written to memory, undone afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import orjson
from loguru import logger

from shared.observability import logging as logs
from shared.settings import LogSettings


class LogLines(BytesIO):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal

    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.getvalue().splitlines()]


@contextmanager
def captured(
    settings: LogSettings | None = None, *, terminal: bool = False, region: str = ""
) -> Iterator[LogLines]:
    handlers, level = logging.root.handlers[:], logging.root.level
    lines = LogLines()
    lines.terminal = terminal
    logs.configure(settings or LogSettings(format="json"), region=region, stream=lines)
    try:
        yield lines
    finally:
        logger.remove()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        logs._writer = None
