"""Where a request goes that may name neither provider nor model."""

from __future__ import annotations

from typing import Any

from api.checking import fault
from api.deps import Broker
from api.named_target import require_provider, take_target
from shared.domain.job import Target
from shared.providers.profile import Capability

OPENAI = "openai"


def take_target_or_default(document: dict[str, Any], via: Broker) -> Target:
    """Takes `provider` out of `document`, which need not hold a `model` either.

    Without a model it is the one for the provider: OPENAI_MODEL, what its operator listed, or
    the first chat model of the catalogue. Raises NotFound, ModelNotFound, or InvalidRequest where
    no model of the provider is known.
    """
    if document.get("model") is None:
        provider = document.get("provider") or via.settings.default_provider
        require_provider(provider, via)
        document["model"] = _model_of(provider, via)
        document["provider"] = provider
    return take_target(document, via)


def _model_of(provider: str, via: Broker) -> str:
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
