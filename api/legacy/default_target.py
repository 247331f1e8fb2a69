"""Where a request goes that may name neither provider nor model."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from api.deps import Broker
from api.named_target import require_provider, take_plan
from shared.domain.job import JobKind
from shared.domain.principal import Principal
from shared.routing.default_model import model_of
from shared.routing.router import Plan


def take_plan_or_default(
    document: dict[str, Any], kind: JobKind, request: Request, principal: Principal, via: Broker
) -> Plan:
    """Takes `provider` out of `document`, which need not hold a `model` either.

    Without a model it is the one for the provider: OPENAI_MODEL, what its operator listed, or
    the first chat model of the catalogue. Raises NotFound, ModelNotFound, or InvalidRequest where
    no model of the provider is known.
    """
    if document.get("model") is None:
        provider = document.get("provider") or via.settings.default_provider
        require_provider(provider, via)
        document["model"] = model_of(provider, via)
        document["provider"] = provider
    return take_plan(document, kind, request, principal, via)
