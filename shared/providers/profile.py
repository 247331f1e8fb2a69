"""What we know of a provider, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit

from shared.errors import ProviderError
from shared.providers.dialect import Dialect


class Capability(StrEnum):
    CHAT = "chat"
    STREAM = "stream"
    VISION = "vision"
    FUNCTION_CALLING = "function-calling"
    STRUCTURED_OUTPUT = "structured-output"
    REASONING = "reasoning"
    EFFORT = "effort"
    """Takes a reasoning effort."""


class Auth(Protocol):
    """How a credential travels."""

    def headers(self, secret: str) -> dict[str, str]: ...


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


@dataclass(frozen=True, slots=True)
class ProviderProfile:
    """
    base_url: without a trailing slash; empty when only an operator can know it
    headers: sent with every request; a dialect's own win
    renames, drops: top-level request parameters under another name, or not sent at all
    models: names an operator listed for this endpoint
    self_hosted: serves models of its operator's choosing, so an unknown name may be right
    """

    id: str
    name: str
    base_url: str
    auth: Auth
    dialect: Dialect
    capabilities: frozenset[Capability]
    headers: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    drops: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()
    credential_required: bool = True
    self_hosted: bool = False
    docs: str = ""

    def with_base_url(self, url: str) -> ProviderProfile:
        return replace(self, base_url=url.rstrip("/"))

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a credential is bound to and a breaker watches."""
        return origin_of(self.base_url)

    def url(self, path: str) -> str:
        """Raises ProviderError while nobody configured where the provider is."""
        if not self.base_url:
            raise ProviderError(f"{self.name} has no base URL configured.", provider=self.id)
        return self.base_url + path


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
