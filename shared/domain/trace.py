"""Where in a trace a job comes from, as it travels with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class TraceOrigin:
    """`parent`, `state`: W3C traceparent and tracestate, well-formed where they were made.

    `is_past`: what it names ended long before the job runs, which then is a trace of its own
    that links to it.
    """

    parent: str
    state: str = ""
    is_past: bool = False

    def as_past(self) -> TraceOrigin:
        return replace(self, is_past=True)

    def to_fields(self) -> dict[str, Any]:
        """For JSON."""
        fields: dict[str, Any] = {"parent": self.parent}
        if self.state:
            fields["state"] = self.state
        if self.is_past:
            fields["past"] = True
        return fields

    @classmethod
    def from_fields(cls, fields: object) -> TraceOrigin | None:
        """None for anything else: a trace is never a reason not to run a job."""
        if not isinstance(fields, Mapping) or not isinstance(parent := fields.get("parent"), str):
            return None
        state = fields.get("state")
        return cls(parent, state if isinstance(state, str) else "", fields.get("past") is True)
