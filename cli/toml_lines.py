"""The line of a TOML file that a problem is about, by how our files tell problems.

`endpoint 'lab', base_url: must be ...` is about the line of `base_url` in the table whose `id` is lab.
tomllib keeps no lines, so the file is read again as text; what cannot be found has no line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_HEADER: Final = re.compile(r"^\s*\[{1,2}\s*(?P<path>[^\]]+?)\s*\]{1,2}\s*(#.*)?$")
_KEY: Final = re.compile(r"""^\s*(?P<key>"[^"]+"|'[^']+'|[A-Za-z0-9_-]+)\s*=\s*(?P<value>.*)$""")
_PLACE: Final = re.compile(r"^(?P<kind>\w+) (?:'(?P<name>[^']*)'|number (?P<number>\d+))$")
_TOLD: Final = re.compile(r"\(at line (\d+), column \d+\)")


@dataclass(slots=True)
class _Table:
    """`path`: what stands in its header. `keys`: name to line and what stands behind the sign."""

    path: tuple[str, ...]
    line: int
    keys: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return ".".join(self.path)


def line_of(path: Path, problem: str) -> int | None:
    """`problem`: `<place>, <field>: <sentence>`, or one of tomllib's, which says the line itself."""
    if told := _TOLD.search(problem):
        return int(told[1])
    try:
        tables = _tables(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    steps = problem.partition(": ")[0].split(", ")
    place = _PLACE.match(steps[0])
    if place is not None:
        table = _entry(tables, place)
        return None if table is None else _in_table(table, ".".join(steps[1:]))
    # `routes.house.policy` or `providers, openai, base_url`: the table with the longest such name.
    named = ".".join(steps).replace("'", "")
    within = [table for table in tables if table.path and f"{named}.".startswith(f"{table.name}.")]
    if within:
        table = max(within, key=lambda one: len(one.name))
        return _in_table(table, named[len(table.name) + 1 :])
    return _line_of_key(tables[0], named)


def _entry(tables: list[_Table], place: re.Match[str]) -> _Table | None:
    entries = [table for table in tables if table.path == (place["kind"],)]
    if place["number"]:
        number = int(place["number"])
        return entries[number - 1] if number <= len(entries) else None
    for table in entries:
        for key in ("id", "name"):
            if key in table.keys and re.match(rf"""["']{re.escape(place["name"])}["']""", table.keys[key][1]):
                return table
    return None


def _in_table(table: _Table, rest: str) -> int:
    return _line_of_key(table, rest) or table.line


def _line_of_key(table: _Table, rest: str) -> int | None:
    """`rest`: a key, and what is wrong within its value."""
    return next((line for key, (line, _) in table.keys.items() if f"{rest}.".startswith(f"{key}.")), None)


def _tables(text: str) -> list[_Table]:
    """The first one is what stands before any header."""
    tables = [_Table((), 1)]
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            tables.append(_Table(tuple(_names(header["path"])), number))
        elif key := _KEY.match(line):
            tables[-1].keys.setdefault(key["key"].strip("\"'"), (number, key["value"]))
    return tables


def _names(path: str) -> list[str]:
    return [part.strip().strip("\"'") for part in re.findall(r""""[^"]*"|'[^']*'|[^.]+""", path)]
