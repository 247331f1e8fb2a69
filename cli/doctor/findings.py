"""What a check found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """Not looked at: there is no such thing here, or something else has to be mended first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`told`: one sentence or two. `fix`: the command or the setting that mends it, where it is no `ok`."""

    level: Level
    told: str
    fix: str = ""


class NotThere(Exception):
    """What a check looks at cannot be reached; that itself is another check's finding."""


def ok(told: str) -> Finding:
    return Finding(Level.OK, told)


def warn(told: str, *, fix: str) -> Finding:
    return Finding(Level.WARN, told, fix)


def fail(told: str, *, fix: str) -> Finding:
    return Finding(Level.FAIL, told, fix)


def skip(told: str) -> Finding:
    return Finding(Level.SKIP, told)


@dataclass(frozen=True, slots=True)
class Told:
    """A finding, and the check it is of."""

    check: str
    finding: Finding


Found = Finding | list[Finding]


@dataclass(frozen=True, slots=True)
class Check:
    """`id`: subject and what is looked at, such as `redis.memory`; stays, so that scripts can name it."""

    id: str
    run: Callable[[], Awaitable[Found]]
