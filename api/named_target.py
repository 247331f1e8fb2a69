"""Where a request goes that may name a provider beside its model."""

from __future__ import annotations

from typing import Any

from api.deps import Broker
from api.plan import choose_target
from shared.domain.job import JobKind, Target
from shared.errors import NotFound
from shared.providers.resolve import resolve


def take_target(document: dict[str, Any], via: Broker, *, presets_of: JobKind | None = None) -> Target:
    """Takes `provider` out of `document`. Raises NotFound, ModelNotFound.

    Where no provider is named, `model` may be a preset's name in a request of kind `presets_of`.
    """
    provider, name = document.pop("provider", None), document["model"]
    if provider is not None:
        require_provider(provider, via)
        name = f"{provider}/{name}"
    elif presets_of is not None:
        return choose_target(document, presets_of, via)
    return resolve(name, via.registry, via.settings.default_provider, via.catalogue)


def require_provider(provider: str, via: Broker) -> None:
    """Raises NotFound, with those there are."""
    if provider not in via.registry.profiles:
        raise NotFound(
            f"There is no provider {provider!r}.",
            param="provider",
            details={"available_providers": via.providers()},
        )
