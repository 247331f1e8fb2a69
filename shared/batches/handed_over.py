"""Where a batch stands that a provider's own batch API is to run: kept in its row, changed by its version.

    reserving ──> building ──> running ──> over
        └────────────┴── stopped ───────────┘

Of each part, which is a batch of the provider's own:

    submit ──> poll ──> fetch ──> map ──> done         cancel: asked to stop, then poll
       └── find: was it created after all? ──┘         close: nothing came, nothing will
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any


class Execution(StrEnum):
    """Who runs the requests of a batch, as its creator wished."""

    LINES = "lines"
    """Each is a job."""
    PROVIDER = "provider"
    """The provider's own batch API, or nobody."""
    AUTO = "auto"
    """The provider's own batch API; what it cannot or does not answer is a job."""


class Phase(StrEnum):
    RESERVING = "reserving"
    """The limits of its key are asked for each line."""
    BUILDING = "building"
    """Its lines become files of requests."""
    RUNNING = "running"
    OVER = "over"
    """What is left of it are jobs."""


class PartStep(StrEnum):
    SUBMIT = "submit"
    FIND = "find"
    POLL = "poll"
    CANCEL = "cancel"
    FETCH = "fetch"
    MAP = "map"
    CLOSE = "close"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Part:
    """
    requests_key, jobs_key, results_key: objects of the storage: what is handed over, a job a line, in order
        of the input, what was fetched
    endpoint, headers: where its requests go at the provider, and with what besides
    asked:    how many jobs its steps were so far; is_asked: whether there is one of this step
    tries:    of this step that failed
    due_at:   unix seconds; no sooner is this step begun
    since:    unix seconds of when it was first handed over
    batch:    the provider's id of it. is_certain: not only one that looks like ours
    is_cancelled: whether the provider was asked to stop it
    others:   ids that turned out to be somebody else's
    results:  where they are at the provider
    code, problem: why nothing came
    """

    requests_key: str
    jobs_key: str
    endpoint: str
    requests: int
    headers: Mapping[str, str] = field(default_factory=dict)
    step: PartStep = PartStep.SUBMIT
    asked: int = 0
    is_asked: bool = False
    tries: int = 0
    due_at: float = 0.0
    since: int = 0
    batch: str | None = None
    is_certain: bool = True
    is_cancelled: bool = False
    others: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    results_key: str | None = None
    code: str | None = None
    problem: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for key in (self.requests_key, self.jobs_key, self.results_key) if key)

    def to(self, step: PartStep, **changes: Any) -> Part:
        """The next step, which was not asked for yet."""
        fresh: dict[str, Any] = {"step": step, "is_asked": False, "tries": 0, "due_at": 0.0}
        return replace(self, **fresh | changes)

    def to_fields(self) -> dict[str, Any]:
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        return (
            said
            | {name: list(said[name]) for name in ("others", "results")}
            | {"headers": dict(self.headers)}
        )

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Part:
        lists = {name: tuple(said[name]) for name in ("others", "results")}
        return cls(**{**said, **lists, "step": PartStep(said["step"])})


@dataclass(frozen=True, slots=True)
class HandedOver:
    """
    held:     whether limits are reserved for its lines
    why_not:  of one that is run line by line though another wish was told
    stopped_at: unix seconds of when it was first to end early
    """

    phase: Phase
    provider: str = ""
    credential: str = ""
    version: int = 0
    held: bool = False
    why_not: str | None = None
    stopped_at: float | None = None
    parts: tuple[Part, ...] = ()

    @property
    def is_on(self) -> bool:
        return self.phase is not Phase.OVER

    @property
    def keys(self) -> tuple[str, ...]:
        """Of objects that are still to be read."""
        return tuple(key for part in self.parts if part.step is not PartStep.DONE for key in part.keys)

    def with_part(self, index: int, part: Part) -> HandedOver:
        return replace(self, parts=(*self.parts[:index], part, *self.parts[index + 1 :]))

    def to_fields(self) -> dict[str, Any]:
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        return said | {"parts": [part.to_fields() for part in self.parts]}

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> HandedOver:
        parts = tuple(map(Part.of, said["parts"]))
        return cls(**{**said, "phase": Phase(said["phase"]), "parts": parts})
