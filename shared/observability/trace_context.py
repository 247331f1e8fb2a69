"""W3C Trace Context: what a caller's headers, or a job's envelope, say of the trace they belong to.

What is not well-formed is as good as nothing: no request fails by it.
Source: https://www.w3.org/TR/trace-context-2/
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER: Final = re.compile(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
MAX_STATE_CHARS: Final = 512
"""As many as everybody has to carry on."""
_MAX_MEMBERS: Final = 32
_KNOWN_FLAGS: Final = 0x03
"""Sampled, and random trace id."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """`state`: tracestate, "" where there is none that is well-formed."""

    trace_id: int
    span_id: int
    flags: int
    state: str = ""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


def parse(parent: str, state: str = "") -> TraceContext | None:
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # A later version may say more behind what this one knows.
    if version == "ff" or (version == "00" and more is not None):
        return None
    context = TraceContext(int(trace_id, 16), int(span_id, 16), int(flags, 16) & _KNOWN_FLAGS, tidy(state))
    return context if context.trace_id and context.span_id else None


def of_headers(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """Of several traceparents none is to be believed; several tracestates are one."""
    parents: list[str] = []
    states: list[str] = []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value.decode("latin-1").strip(" \t"))
        elif name == b"tracestate":
            states.append(value.decode("latin-1"))
    return parse(parents[0], ",".join(states)) if len(parents) == 1 else None


def tidy(state: str) -> str:
    """A tracestate without what means nothing in it; "" where it is not well-formed."""
    if not state:
        return ""
    members = [stripped for member in state.split(",") if (stripped := member.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    told = ",".join(members)
    if len(members) > _MAX_MEMBERS or len(keys) < len(members) or len(told) > MAX_STATE_CHARS:
        return ""
    return told if all(map(_MEMBER.fullmatch, members)) else ""
