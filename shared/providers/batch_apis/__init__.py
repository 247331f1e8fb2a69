"""Providers' own batch APIs: what is said there and what they answer. Pure: bytes in, bytes out.

    requests ── file ──> created, marked as ours ──> asked after ──> results, in any order
                             └── cancelled ──────────────┘

Workers make the calls (workers/provider_batch.py), the scheduler keeps where a batch stands
(scheduler/hand_over). Each request in it is what its own job would have sent, in its provider's words.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from shared.domain.batch import LineState

if TYPE_CHECKING:
    # A profile names its batch API, whose paths depend on the profile's address.
    from shared.providers.profile import ProviderProfile


class BatchState(StrEnum):
    RUNNING = "running"
    ENDED = "ended"
    """Well or not: there are results of what was answered."""
    FAILED = "failed"
    """Nothing of it ran, or its provider knows it no more."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a batch stands at its provider.

    created_at: unix seconds
    mark:       what we called it, where the provider keeps such a thing
    total:      requests in it; None where it does not say yet
    results:    paths or URLs of what came out, to be read one after the other
    problem:    why it failed, in the provider's words
    """

    id: str
    state: BatchState
    created_at: int = 0
    mark: str | None = None
    total: int | None = None
    results: tuple[str, ...] = ()
    problem: str | None = None

    def to_wire(self) -> bytes:
        return orjson.dumps(
            {
                "id": self.id,
                "state": self.state,
                "created_at": self.created_at,
                "mark": self.mark,
                "total": self.total,
                "results": self.results,
                "problem": self.problem,
            }
        )

    @classmethod
    def from_wire(cls, wire: bytes) -> Told:
        """Raises ValueError, KeyError or TypeError."""
        said: dict[str, Any] = orjson.loads(wire)
        return cls(**said | {"state": BatchState(said["state"]), "results": tuple(said["results"])})


@dataclass(frozen=True, slots=True)
class Page:
    """Of a provider's list of batches, newest first. `onward`: the path of the next; None at the end."""

    batches: tuple[Told, ...]
    onward: str | None


@dataclass(frozen=True, slots=True)
class Answered:
    """`status`, `body`: as if the request had been sent by itself."""

    line: str
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """`state`: expired, cancelled or failed."""

    line: str
    state: LineState
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class UploadForm:
    """What stands before and behind the content of a file that is uploaded."""

    content_type: str
    head: bytes
    tail: bytes


class BatchApi(Protocol):
    """
    max_requests, max_bytes: of one batch; a larger one of ours becomes several
    head, between, tail: of the file that holds the requests
    marks: whether the provider keeps a name of ours with a batch, by which it is found again
    """

    @property
    def max_requests(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def head(self) -> bytes: ...
    @property
    def between(self) -> bytes: ...
    @property
    def tail(self) -> bytes: ...
    @property
    def marks(self) -> bool: ...

    def endpoint(self, path: str) -> str | None:
        """What a batch calls the path that a request goes to by itself; None where it serves none such."""
        ...

    def group(self, endpoint: str, model: str, headers: Mapping[str, str]) -> Hashable:
        """Requests of one group may share a batch."""
        ...

    def weight(self, endpoint: str, document: Mapping[str, Any]) -> int:
        """How many of `max_requests` it takes."""
        ...

    def request(self, line: str, endpoint: str, body: bytes) -> bytes:
        """One request of the file, without a newline in it."""
        ...

    def upload(self, filename: str) -> UploadForm | None:
        """How the file is handed over; None where it is itself the body that creates the batch."""
        ...

    def files_path(self, profile: ProviderProfile) -> str:
        """Where it is uploaded to."""
        ...

    def read_file(self, body: bytes) -> str:
        """The id of the file that was uploaded. Raises ValueError."""
        ...

    def create(self, file: str, endpoint: str, mark: str) -> bytes:
        """What creates a batch of an uploaded file."""
        ...

    def batches_path(self, profile: ProviderProfile) -> str:
        """Where batches are created, and below which each of them is."""
        ...

    def list_path(self, profile: ProviderProfile, after: str | None = None) -> str:
        """Of a page of them, newest first, from behind the batch `after`."""
        ...

    def read_page(self, profile: ProviderProfile, body: bytes) -> Page:
        """Raises ValueError."""
        ...

    def read_batch(self, profile: ProviderProfile, body: bytes) -> Told:
        """Raises ValueError."""
        ...

    def read_result(self, line: bytes) -> Answered | NotAnswered:
        """One line of the results. Raises ValueError."""
        ...


def parsed(body: bytes) -> dict[str, Any]:
    """Raises ValueError where it is no JSON object."""
    document = orjson.loads(body)
    if type(document) is not dict:
        raise ValueError("no JSON object")
    return document


def text(value: object) -> str:
    """Raises ValueError where it is none, or an empty one."""
    if type(value) is not str or not value:
        raise ValueError("no text")
    return value
