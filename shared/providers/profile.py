"""What we know of a provider, as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from shared.domain.job import JobKind
from shared.errors import InvalidRequest, ProviderError
from shared.providers.batch_apis import BatchApi
from shared.providers.dialect import Codec, Dialect


class Capability(StrEnum):
    """Of a model or of a provider, a closed set: shown to callers, read by planning."""

    CHAT = "chat"
    STREAM = "stream"
    VISION = "vision"
    FUNCTION_CALLING = "function-calling"
    STRUCTURED_OUTPUT = "structured-output"
    REASONING = "reasoning"
    EFFORT = "effort"
    """Takes a reasoning effort."""
    COMPLETION = "completion"
    """Continues a prompt, on an endpoint of its own."""
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    SUMMARIZATION = "summarization"
    """Has a task of that name; any chat model can be asked for a summary too."""


CHAT_MODEL: Final = frozenset(
    {Capability.CHAT, Capability.STREAM, Capability.FUNCTION_CALLING, Capability.STRUCTURED_OUTPUT}
)
"""What nearly every provider of chat models can."""

_NEEDED: Final[Mapping[JobKind, Capability]] = {
    JobKind.CHAT: Capability.CHAT,
    JobKind.MESSAGES: Capability.CHAT,
    JobKind.RESPONSES: Capability.CHAT,
    JobKind.COUNT_TOKENS: Capability.CHAT,
    JobKind.EMBEDDINGS: Capability.EMBEDDINGS,
    JobKind.RERANK: Capability.RERANK,
}
"""What a provider must be able to do to be asked; other kinds have two ways, one of them chat."""


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What an operator says one account may use of a provider; None: as much as it likes.

    `concurrent`: calls at once.
    """

    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


class Auth(Protocol):
    """How a credential travels."""

    def headers(self, secret: str) -> dict[str, str]: ...


class Signer(ABC):
    """An `Auth` whose secret never travels: each call carries a signature of what it says."""

    def headers(self, secret: str) -> dict[str, str]:
        return {}

    @abstractmethod
    def sign(self, secret: str, *, method: str, url: str, body: bytes, now: datetime) -> dict[str, str]:
        """Headers for this one call; `body` are the very bytes that will be sent."""


@dataclass(frozen=True, slots=True)
class Bearer:
    def headers(self, secret: str) -> dict[str, str]:
        return {"authorization": f"Bearer {secret}"}


@dataclass(frozen=True, slots=True)
class HeaderKey:
    """The bare secret in a header of its own, such as x-api-key."""

    name: str

    def headers(self, secret: str) -> dict[str, str]:
        return {self.name: secret}


def _unchanged(_: dict[str, Any]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class ProviderProfile:
    """
    base_url: without a trailing slash; empty when only an operator can know it
    bases: other base URLs, by kind of job; an operator's own base URL replaces them all
    codecs: for kinds this provider says in a way of its own; else its dialect's, else through chat
    headers: sent with every request; a codec's own win
    renames, drops, refuses: top-level request parameters sent under another name; left out, because
        the answer means the same without them; answered with a 400 that names them
    shape: what data cannot say: changes a parsed request in place and returns headers for it. It is
        called where one of `shapes` is among the parameters
    model_name: the provider's own spelling of a model name
    pending: the path at which a call that was answered 202 is asked after, from that answer's headers
    key_variables: environment variables that may hold the key, the first set one wins
    base_url_variable: environment variable of the base URL
    streams: False where an answer only comes whole; it is then said as a stream of one piece
    models_path: where GET lists the models, "" where nothing does
    models: names an operator listed for this endpoint
    limits: of an account there, as the operator configured them
    self_hosted: serves models of its operator's choosing, so an unknown name may be right
    batches: its own batch API, where it has one that we speak
    """

    id: str
    name: str
    base_url: str
    auth: Auth
    dialect: Dialect
    capabilities: frozenset[Capability]
    bases: Mapping[JobKind, str] = field(default_factory=dict)
    codecs: Mapping[JobKind, Codec] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    drops: frozenset[str] = frozenset()
    refuses: frozenset[str] = frozenset()
    shape: Callable[[dict[str, Any]], Mapping[str, str]] = _unchanged
    shapes: frozenset[str] = frozenset()
    model_name: Callable[[str], str] = str
    pending: Callable[[Mapping[str, str]], str | None] | None = None
    key_variables: tuple[str, ...] = ()
    base_url_variable: str = ""
    streams: bool = True
    models_path: str = "/models"
    models: tuple[str, ...] = ()
    credential_required: bool = True
    self_hosted: bool = False
    limits: AccountLimits | None = None
    batches: BatchApi | None = None
    docs: str = ""

    def __str__(self) -> str:
        return self.id

    def with_base_url(self, url: str) -> ProviderProfile:
        return replace(self, base_url=url.rstrip("/"), bases={})

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a credential is bound to and a breaker watches."""
        return origin_of(self.base_url)

    @property
    def origins(self) -> frozenset[str]:
        """Every origin that calls of this provider go to."""
        return frozenset({self.origin, *map(origin_of, self.bases.values())})

    def url(self, path: str, kind: JobKind = JobKind.CHAT) -> str:
        """Raises ProviderError while nobody configured where the provider is."""
        base = self.bases.get(kind, self.base_url)
        if not base:
            raise ProviderError(f"{self.name} has no base URL configured.", provider=self.id)
        return base + path

    def serves(self, kind: JobKind) -> bool:
        if kind is JobKind.CREDENTIAL_CHECK:
            return bool(self.models_path)
        if kind is JobKind.PROVIDER_BATCH:
            return self.batches is not None
        needed = _NEEDED.get(kind)
        return (needed is None or needed in self.capabilities) and self._codec(kind) is not None

    def codec(self, kind: JobKind) -> Codec:
        """Raises InvalidRequest (400) for a kind that this provider cannot be asked."""
        needed = _NEEDED.get(kind)
        codec = self._codec(kind) if needed is None or needed in self.capabilities else None
        if codec is None:
            raise not_served(self, kind)
        return codec

    def _codec(self, kind: JobKind) -> Codec | None:
        return self.codecs.get(kind) or self.dialect.codecs.get(kind)


def not_served(profile: ProviderProfile, kind: JobKind) -> InvalidRequest:
    error = InvalidRequest(f"{profile.name} serves no {kind.value.replace('_', ' ')}.", param="model")
    error.status, error.code = 400, "unsupported_by_provider"
    return error


_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> str:
    """RFC 6454 origin with the port always written; empty for an empty URL."""
    if not url:
        return ""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}:{parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)}"
