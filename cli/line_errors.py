"""What went wrong in a batch: its error file, counted by code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from cli.broker import error_of, shown
from cli.table import print_table

_FIRST: Final = 3


@dataclass
class Group:
    code: str
    message: str
    count: int = 0
    first: list[str] = field(default_factory=list)


def grouped(lines: Iterable[bytes]) -> list[Group]:
    """Those of most lines first."""
    groups: dict[str, Group] = {}
    for line in lines:
        if not line.strip():
            continue
        code, message, place = _read(json.loads(line))
        group = groups.setdefault(code, Group(code, message))
        group.count += 1
        if len(group.first) < _FIRST:
            group.first.append(place)
    return sorted(groups.values(), key=lambda group: -group.count)


def print_groups(groups: list[Group]) -> None:
    rows = [
        (shown(g.code, width=40), str(g.count), shown(", ".join(g.first), width=60), shown(g.message))
        for g in groups
    ]
    print_table(("CODE", "LINES", "FIRST", "MESSAGE"), rows)


def _read(line: dict[str, Any]) -> tuple[str, str, str]:
    """Code, sentence, and where it was: its custom_id, or its line where it has none that counts."""
    response, error = line.get("response"), line.get("error")
    code, message = error_of({"error": error})
    if code is None and isinstance(response, dict):
        code, message = error_of(response.get("body"))
        code = code or f"status {response.get('status_code')}"
    number = error.get("line") if isinstance(error, dict) else None
    place = line.get("custom_id") or (f"line {number}" if number is not None else "")
    return code or "unknown", message or "", str(place)
