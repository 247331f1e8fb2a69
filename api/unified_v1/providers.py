"""`/api/v1/providers` and `/api/v1/health`: who is there, and how each does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter, Request
from redis.exceptions import RedisError

from api.deps import Broker, authenticate, broker_of
from api.health import database_state, redis_state
from api.model_names import names_of, routes
from api.unified_v1.model_schemas import (
    GatewayHealth,
    HealthStatus,
    ProviderDetails,
    ProviderList,
    ProviderView,
    QuotaStatus,
    RateLimitInfo,
    RouteTarget,
    RouteView,
    RoutingPolicy,
)
from api.unified_v1.schemas import ErrorAnswer
from shared import keyspace
from shared.domain.conditions import UNKNOWN
from shared.domain.roles import Permission
from shared.errors import QueueUnavailable
from shared.providers import duties
from shared.providers.duties import Health
from shared.providers.model_lists import ProviderStatus
from shared.providers.profile import ProviderProfile
from shared.routing.table import Route, written

router: Final = APIRouter(tags=["Unified"])

_IMPAIRED: Final = frozenset({ProviderStatus.DEGRADED, ProviderStatus.OFFLINE})


@router.get("/api/v1/providers", summary="List providers", responses={401: {"model": ErrorAnswer}})
async def list_providers(request: Request) -> ProviderList:
    """Those that are served; their models by the names to ask for."""
    via = broker_of(request)
    await authenticate(request, via, Permission.MODELS_READ)
    profiles = [via.registry.get(name) for name in via.providers()]
    return ProviderList(providers=[_view(profile, via) for profile in profiles], routing=_routing(via))


@router.get(
    "/api/v1/providers/{provider}",
    summary="Describe a provider",
    responses={401: {"model": ErrorAnswer}, 404: {"model": ErrorAnswer}},
)
async def get_provider(request: Request, provider: str) -> ProviderDetails:
    """With its health, and what its last answers said of our limits there."""
    via = broker_of(request)
    await authenticate(request, via, Permission.MODELS_READ)
    profile = via.registry.get(provider)
    try:
        stored = await via.link.execute("GET", keyspace.limits(provider))
    except (RedisError, OSError) as exc:
        raise QueueUnavailable("The limits of providers cannot be read at the moment.") from exc
    limits = duties.rate_limits(profile, stored)
    quota = duties.quota(profile, limits, datetime.now(UTC))
    health = health_of(profile, via)
    return ProviderDetails(
        **_view(profile, via).model_dump(),
        health=HealthStatus(
            status=health.status,
            latency_ms=health.latency_ms,
            checked_at=health.checked_at,
            error=health.error,
        ),
        rate_limits=[
            RateLimitInfo(name=at.name, limit=at.limit, remaining=at.remaining, reset_at=at.reset_at)
            for at in limits
        ],
        quota=QuotaStatus(status=quota.state, resets_at=quota.resets_at),
        docs=profile.docs,
    )


@router.get(
    "/api/v1/health", summary="What works, provider by provider", responses={401: {"model": ErrorAnswer}}
)
async def health(request: Request) -> GatewayHealth:
    """Unlike /health it names providers, so it asks for a key; and it always answers 200."""
    via = broker_of(request)
    await authenticate(request, via, Permission.MODELS_READ)
    redis, database = await asyncio.gather(redis_state(via), database_state(via))
    providers = {name: health_of(via.registry.get(name), via).status for name in via.providers()}
    whole = redis == database == "connected" and not _IMPAIRED & set(providers.values())
    status = "unavailable" if redis != "connected" else "ok" if whole else "degraded"
    return GatewayHealth(status=status, providers=providers, database=database, redis=redis)


def _view(profile: ProviderProfile, via: Broker) -> ProviderView:
    condition = via.conditions.get(profile.id, UNKNOWN)
    return ProviderView(
        id=profile.id,
        name=profile.name,
        status=health_of(profile, via).status,
        models=names_of(profile, via),
        capabilities=sorted(profile.capabilities),
        breaker=condition.breaker,
        open_seconds=round(condition.open_seconds, 3),
        paused_seconds=round(condition.paused_seconds, 3),
    )


def health_of(profile: ProviderProfile, via: Broker) -> Health:
    record = via.model_lists.health.get(profile.id)
    return duties.health(profile, record, served=via.presence.serves(profile.id))


def _routing(via: Broker) -> RoutingPolicy:
    name = via.settings.default_provider
    default = via.registry.profiles.get(name)
    takes_any = default is not None and default.self_hosted and bool(default.base_url)
    return RoutingPolicy(
        default_provider=name,
        unknown_models="sent to the default provider" if takes_any else "refused",
        routes=[_route(route) for route in routes(via)],
        fallbacks={
            written(model): [written(target) for target in targets]
            for model, targets in via.router.table.fallbacks.items()
        },
    )


def _route(route: Route) -> RouteView:
    return RouteView(
        name=route.name,
        policy=route.policy,
        targets=[
            RouteTarget(model=written(target), weight=route.weights[target]) for target in route.targets
        ],
        requires=sorted(route.requires),
        fallback_on=sorted(route.fallback_on),
        max_targets=route.max_targets,
    )
