"""Where a request goes that may name a provider beside its model."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from api.deps import Broker
from shared.domain.job import JobKind
from shared.domain.principal import Principal
from shared.errors import NotFound
from shared.routing.choice import choose_plan, plan_for
from shared.routing.router import Plan


def take_plan(
    document: dict[str, Any], kind: JobKind, request: Request, principal: Principal, via: Broker
) -> Plan:
    """Takes `provider` out of `document`. Raises NotFound, and what `choose_plan` raises.

    Where no provider is named, `model` may be all that it may be on the other routes.
    """
    provider = document.pop("provider", None)
    if provider is None:
        return choose_plan(document, kind, request.scope["headers"], principal, via)
    require_provider(provider, via)
    return plan_for(
        f"{provider}/{document['model']}", document, kind, request.scope["headers"], principal, via
    )


def require_provider(provider: str, via: Broker) -> None:
    """Raises NotFound, with those there are."""
    if provider not in via.registry.profiles:
        raise NotFound(
            f"There is no provider {provider!r}.",
            param="provider",
            details={"available_providers": via.providers()},
        )
