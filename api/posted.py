"""What every route that takes a JSON body begins with: who sent it, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from api.deps import Broker, authenticate, broker_of
from api.request_body import read_body
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.requests.json_body import MAX_NODES, parse_object


@dataclass(frozen=True, slots=True)
class Posted:
    via: Broker
    principal: Principal
    body: bytes
    document: dict[str, Any]


async def posted(
    request: Request, *, permission: Permission = Permission.INFERENCE, max_nodes: int = MAX_NODES
) -> Posted:
    """Raises AuthenticationFailed or NotAuthorized before the body is read; then as `parse_object` does."""
    via = broker_of(request)
    principal = await authenticate(request, via, permission)
    body = await read_body(request.receive, limit=via.settings.api.max_body_bytes)
    return Posted(via, principal, body, parse_object(body, max_nodes=max_nodes))
