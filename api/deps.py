"""What the routes work with: one Broker a process, and who is calling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.types import Scope

from api.incoming import Incoming
from api.job_rows import JobRows
from api.login_limits import LoginLimits
from api.replies import Replies
from shared.auth.issuing import KeyIssuer
from shared.auth.lookup import KeyLookup
from shared.auth.passwords import Passwords
from shared.auth.sessions import Sessions
from shared.crypto import Sealer
from shared.domain.conditions import ProviderCondition
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import AuthenticationFailed, NotAuthorized
from shared.ids import RequestId
from shared.limits.admission import Admission
from shared.providers.catalogue import Catalogue
from shared.providers.model_lists import ModelLists
from shared.providers.registry import Registry
from shared.queue.dead_letters import DeadLetters
from shared.queue.job_status import JobStatuses
from shared.queue.memory_watch import MemoryWatch
from shared.queue.presence import Presence
from shared.queue.producer import Producer
from shared.queue.redis_link import RedisLink
from shared.routing.router import Router
from shared.settings import Settings
from shared.storage.objects import Storage
from shared.webhooks.signing import WebhookSecrets


@dataclass(frozen=True, slots=True)
class Broker:
    settings: Settings
    link: RedisLink
    producer: Producer
    job_rows: JobRows
    dead_letters: DeadLetters
    job_statuses: JobStatuses
    replies: Replies
    presence: Presence
    memory: MemoryWatch
    registry: Registry
    catalogue: Catalogue
    model_lists: ModelLists
    router: Router
    keys: KeyLookup
    issuer: KeyIssuer
    passwords: Passwords
    engine: AsyncEngine
    admission: Admission
    login_limits: LoginLimits
    webhook_secrets: WebhookSecrets
    storage: Storage
    incoming: Incoming = field(default_factory=Incoming)
    conditions: Mapping[str, ProviderCondition] = field(default_factory=dict)
    """How providers do, by id; one that is missing does as `UNKNOWN` says."""
    sessions: Sessions | None = None
    """None where no JWT_SECRET is set: nobody can log in."""
    sealer: Sealer | None = None
    """None where no HEADRACE_MASTER_PUBLIC_KEY is set: no account can store keys of its own."""

    def providers(self) -> list[str]:
        """What to show as served, of what has an address here: what live workers serve. Where none
        was seen, what this process is configured for, or all, as it may hold no keys at all.
        """
        with_address = [name for name in self.registry.profiles if self.registry.has_address(name)]
        served = [name for name in self.presence.served() if name in with_address]
        return served or self.registry.configured() or with_address


def broker_of(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


def request_id_of(scope: Scope) -> RequestId:
    request_id: RequestId = scope["state"]["request_id"]
    return request_id


def headers_of(scope: Scope) -> dict[str, str]:
    """By lower-case name; of several of one name the first. For those who look at many of them."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


async def authenticate(request: Request, broker: Broker, permission: Permission) -> Principal:
    """Who sent this, provided that it may. Every route names what it takes: there is no other way in.

    Raises AuthenticationFailed, or NotAuthorized.
    """
    token = token_of(request.scope)
    principal = broker.keys.cached(token)
    if principal is None:
        principal = await broker.keys.resolve(token)
    if not principal.may(permission):
        raise NotAuthorized(f"This takes the permission {permission.value!r}, which this credential lacks.")
    return principal


def token_of(scope: Scope) -> str:
    """The API key in `Authorization: Bearer` or `x-api-key`; clients of both kinds exist."""
    other = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and token:
                text: str = token.strip().decode("latin-1")
                return text
            raise AuthenticationFailed("The Authorization header must be `Bearer <API key>`.")
        if name == b"x-api-key":
            other = value
    if other is None:
        raise AuthenticationFailed("No API key: send it as `Authorization: Bearer <API key>`.")
    found: str = other.decode("latin-1")
    return found
