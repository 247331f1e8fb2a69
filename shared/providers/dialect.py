"""The seam between a job and what a provider speaks. Pure: bytes in, bytes out.

    job ── Codec.encode ──> provider ── Codec.decode | StreamDecoder ──> answer in the job's own form

A `Dialect` is a provider's language: one codec for each kind of job it has words for. Kinds it
has none for go through chat (translation/), or are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from shared.domain.job import JobKind, Target
from shared.domain.usage import Usage
from shared.ids import JobId
from shared.providers.sse_reader import SseEvent

if TYPE_CHECKING:
    # A profile names its dialect and a codec reads the profile: two types, one idea.
    from shared.providers.profile import ProviderProfile


NO_JOB: Final = JobId("job_unknown")


@dataclass(frozen=True, slots=True)
class Call:
    """One job on its way to one target: all that a codec may know of it.

    `body`: the job's, in the form of its kind. `include_usage`: whether the caller asked for
    the usage chunk of a chat stream. `job_id` makes ids of answers whose provider gives none.
    """

    body: bytes
    target: Target
    profile: ProviderProfile
    stream: bool = False
    include_usage: bool = True
    job_id: JobId = NO_JOB


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """`path` is appended to the base URL of the profile for this kind of job.

    `headers` are the codec's own, never the credential.
    """

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: JSON in the form of the job's kind. `usage` is None when the provider did not say.

    `text_chars`: characters of content, tool arguments and reasoning, for an estimate. Needed only then.
    """

    body: bytes
    usage: Usage | None
    finish_reason: str | None
    text_chars: int = 0


class StreamDecoder(Protocol):
    """Turns one provider stream into events of the job's kind. Stateful, one a stream; pure.

    usage:         as the provider said, cumulative; None until it said
    finish_reason: of the answer, once said
    ended:         each choice that began has said why it ends. A stream is whole only then,
                   whatever sign it ends with; some providers give none.
    finished:      the provider's own terminal sign was seen ([DONE], message_stop): nothing follows
    text_chars:    characters of content, tool arguments and reasoning so far, for an
                   estimate when usage is missing
    """

    @property
    def usage(self) -> Usage | None: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def ended(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def text_chars(self) -> int: ...

    def feed(self, event: SseEvent) -> list[bytes]:
        """Event documents for this event, in order, none with a newline inside.

        Empty for pings and what the caller did not ask for. Raises ProviderError for an
        error inside the stream, ProviderAnswerInvalid for what is not a stream event.
        """
        ...

    def end(self) -> list[bytes]:
        """The documents that close a stream: called once, after its last event, if it is whole."""
        ...


class Codec(Protocol):
    """How one kind of job is said to a provider."""

    def encode(self, call: Call) -> ProviderRequest:
        """What to send. A streamed request always asks for usage.

        Raises InvalidRequest (400, `param` set) for what the provider has no word for.
        """
        ...

    def decode(self, body: bytes, call: Call) -> Answer:
        """Raises ProviderError when the 200 holds an error, ProviderAnswerInvalid when it holds no answer."""
        ...

    def open_stream(self, call: Call) -> StreamDecoder: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """A language several providers speak."""

    id: str
    codecs: Mapping[JobKind, Codec]
