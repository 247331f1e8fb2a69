"""The seam between the canonical form and what a provider speaks. Pure: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from shared.domain.job import Target
from shared.domain.usage import Usage
from shared.errors import ProviderError
from shared.providers.sse_reader import SseEvent

if TYPE_CHECKING:
    # A profile names its dialect and a dialect reads the profile: two types, one idea.
    from shared.providers.profile import ProviderProfile


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """`path` is appended to the profile's base URL; `headers` are the dialect's own, never the credential."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: canonical `chat.completion` JSON. `usage` is None when the provider did not say."""

    body: bytes
    usage: Usage | None
    finish_reason: str | None


class StreamDecoder(Protocol):
    """Turns one provider stream into canonical chunks. Stateful, one a stream; pure.

    usage:         as the provider said, cumulative; None until it said
    finish_reason: of the answer, once said
    finished:      the provider's own terminal sign was seen ([DONE], message_stop).
                   Some end without it: a clean end of stream with a finish_reason is whole too.
    text_chars:    characters of content, tool arguments and reasoning so far, for an
                   estimate when usage is missing
    """

    usage: Usage | None
    finish_reason: str | None
    finished: bool
    text_chars: int

    def feed(self, event: SseEvent) -> list[bytes]:
        """Canonical chunk documents for this event, in order, none with a newline inside.

        Empty for pings and what the caller did not ask for. Raises ProviderError for an
        error inside the stream, ProviderAnswerInvalid for what is not a stream event.
        """
        ...


class Dialect(Protocol):
    @property
    def id(self) -> str: ...

    def encode_chat(
        self, body: bytes, *, target: Target, profile: ProviderProfile, stream: bool, include_usage: bool
    ) -> ProviderRequest:
        """What to send for canonical `body`. A streamed request always asks for usage.

        Raises InvalidRequest (400, `param` set) for what the provider has no word for.
        """
        ...

    def decode_chat(self, body: bytes, *, profile: ProviderProfile, target: Target) -> Answer:
        """Raises ProviderError when the 200 holds an error, ProviderAnswerInvalid when it holds no answer."""
        ...

    def open_stream(self, *, target: Target, profile: ProviderProfile, include_usage: bool) -> StreamDecoder:
        """`include_usage`: whether the caller asked for the usage chunk."""
        ...

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, profile: ProviderProfile
    ) -> ProviderError:
        """What an HTTP error of the provider means to us. Never raises, whatever the body."""
        ...
