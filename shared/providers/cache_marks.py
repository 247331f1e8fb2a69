"""HOT PATH. Whether a request asks its provider to keep its prompt, and what it costs at most then.

Anthropic keeps what stands before a mark, `cache_control`, for five minutes, or for an hour where the mark
says `"ttl": "1h"`. platform.claude.com/docs/en/build-with-claude/prompt-caching. Parts of a prompt and tools
may have one, and the request itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

from shared.domain.usage import Usage
from shared.providers.catalogue import Prices

_MARK: Final = "cache_control"
_MARKED: Final = ("system", "tools", "messages", "input")
_OPAQUE: Final = frozenset({"input_schema", "parameters", "input", "arguments"})
"""Within these: what a tool is given, which may have any names."""


class Kept(Enum):
    NOT = "not"
    MINUTES = "minutes"
    AN_HOUR = "an hour"


def kept_by(document: Mapping[str, Any]) -> Kept:
    """For how long at most. A lifetime that nobody knows here may be a longer one."""
    marks: list[Any] = [document.get(_MARK)]
    for name in _MARKED:
        if type(items := document.get(name)) is list:
            _collect(items, marks)
    ttls = [mark.get("ttl") for mark in marks if type(mark) is dict]
    if not ttls:
        return Kept.NOT
    return Kept.MINUTES if all(ttl in (None, "5m") for ttl in ttls) else Kept.AN_HOUR


def highest_cost(prices: Prices, prompt: int, answer: int, document: Mapping[str, Any]) -> int:
    """Micro-dollars of so many tokens, should all of a prompt be kept that may be."""
    cost = prices.cost_micro_usd(Usage(prompt, answer))
    if prices.cache_write is None or (kept := kept_by(document)) is Kept.NOT:
        return cost
    for_an_hour = prompt if kept is Kept.AN_HOUR else 0
    written = Usage(prompt, answer, cache_write_tokens=prompt, cache_write_1h_tokens=for_an_hour)
    return max(cost, prices.cost_micro_usd(written))


def _collect(items: Iterable[Any], marks: list[Any]) -> None:
    for item in items:
        if type(item) is not dict:
            continue
        for name, value in item.items():
            kind = type(value)
            if kind is str:
                continue
            if name == _MARK:
                marks.append(value)
            elif (kind is list or kind is dict) and name not in _OPAQUE:
                _collect(value if kind is list else (value,), marks)
