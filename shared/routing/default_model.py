"""The model of a request that names none."""

from __future__ import annotations

from typing import Final

from shared.providers.profile import Capability
from shared.requests.checking import fault
from shared.routing.means import RoutingMeans

OPENAI: Final = "openai"


def default_model(via: RoutingMeans) -> str:
    """Of the default provider, as `provider/model`. Raises as `model_of`."""
    provider = via.settings.default_provider
    return f"{provider}/{model_of(provider, via)}"


def model_of(provider: str, via: RoutingMeans) -> str:
    """OPENAI_MODEL, what the operator listed for the provider, or its first chat model in the catalogue.

    Raises NotFound, or InvalidRequest where no model of the provider is known.
    """
    if provider == OPENAI:
        return via.settings.openai_model
    listed = via.registry.get(provider).models
    known = (
        model.id
        for model in via.catalogue.models()
        if model.provider == provider and Capability.CHAT in model.capabilities
    )
    found = listed[0] if listed else next(known, None)
    if found is None:
        raise fault("model", f"is required: no model of {provider!r} is known here")
    return found
