"""Providers, models and estimates on the unified routes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from api.unified_v1.schemas import Provider
from shared.domain.conditions import BreakerState
from shared.domain.job import FallbackOn, JobKind
from shared.providers.duties import QuotaState
from shared.providers.model_lists import ProviderStatus
from shared.providers.profile import Capability
from shared.requests.chat import Model
from shared.requests.problems import from_pydantic
from shared.routing.routing_file import Policy


class ModelPrices(BaseModel):
    """US dollars per million tokens. `cache_write`: of what the provider keeps of a prompt for minutes, and
    `cache_write_1h` for an hour; null where that costs nothing more.
    """

    prompt: float
    cached_prompt: float
    completion: float
    cache_write: float | None = None
    cache_write_1h: float | None = None


class ModelCapabilities(BaseModel):
    """`source`, `read`: where the numbers were read, and when; `verified`: on the vendor's own page."""

    id: str
    provider: str
    name: str
    aliases: list[str] = []
    capabilities: list[Capability] = []
    context_tokens: int | None
    max_output_tokens: int | None
    usd_per_million: ModelPrices | None
    note: str | None = None
    source: str
    read: date | None = None
    verified: bool = False


class ModelCapabilitiesList(BaseModel):
    models: list[ModelCapabilities]
    aliases: dict[str, str]
    """Names of this gateway, each for a `provider/model`."""
    routes: dict[str, list[str]]
    """Names of this gateway, each for several; /api/v1/providers tells how one is chosen."""


class HealthStatus(BaseModel):
    status: ProviderStatus
    latency_ms: int | None = None
    checked_at: datetime | None = None
    error: str | None = None


class RateLimitInfo(BaseModel):
    name: str
    limit: int | None
    remaining: int | None
    reset_at: datetime | None


class QuotaStatus(BaseModel):
    status: QuotaState
    resets_at: datetime | None = None


class RouteTarget(BaseModel):
    """`weight`: its share, where the route's policy is `weighted`."""

    model: str
    weight: float


class RouteView(BaseModel):
    """A name that leads to several models. `policy`: what decides between those that can take a request.

    `requires`: what every one of them can. `fallback_on`: failures of the request itself that move
    it on. `max_targets`: how many of them one request may try.
    """

    name: str
    policy: Policy
    targets: list[RouteTarget]
    requires: list[Capability]
    fallback_on: list[FallbackOn]
    max_targets: int


class RoutingPolicy(BaseModel):
    """Where a name leads that names no provider, and where to from a model that fails.

    `unknown_models`: what becomes of a name that nobody lists. `fallbacks`: by model, of requests
    that name it directly and no others to fall back to.
    """

    default_provider: str
    unknown_models: Literal["refused", "sent to the default provider"]
    routes: list[RouteView]
    fallbacks: dict[str, list[str]]


class ProviderView(BaseModel):
    """`open_seconds`: until its breaker lets a call through to try it; `paused_seconds`: until calls
    go on after it refused for its rate.
    """

    id: str
    name: str
    status: ProviderStatus
    models: list[str]
    capabilities: list[Capability]
    breaker: BreakerState = BreakerState.CLOSED
    open_seconds: float = 0.0
    paused_seconds: float = 0.0


class ProviderList(BaseModel):
    providers: list[ProviderView]
    routing: RoutingPolicy


class ProviderDetails(ProviderView):
    health: HealthStatus
    rate_limits: list[RateLimitInfo]
    quota: QuotaStatus
    docs: str


class GatewayHealth(BaseModel):
    status: Literal["ok", "degraded", "unavailable"]
    providers: dict[str, ProviderStatus]
    database: str
    redis: str


class CostEstimate(BaseModel):
    """`low`: with an empty answer; `high`: with the longest, null when nothing bounds it.
    `known`: whether the price is known; both are 0 when it is not.
    """

    provider: str
    model: str
    kind: JobKind
    prompt_tokens: int
    max_completion_tokens: int | None
    known: bool
    low_micro_usd: int
    high_micro_usd: int | None
    low_usd: float
    high_usd: float | None
    note: str | None = None


_ESTIMATED: Final = frozenset(JobKind) - {JobKind.CREDENTIAL_CHECK, JobKind.PROVIDER_BATCH}


def _known_kind(kind: str) -> str:
    if kind not in _ESTIMATED:
        raise ValueError(f"must be one of {', '.join(one for one in JobKind if one in _ESTIMATED)}")
    return kind


Tokens = Annotated[int, Field(ge=0)]


@with_config(ConfigDict(extra="allow", strict=True))
class _Estimated(TypedDict, total=False):
    provider: Provider | None
    kind: Annotated[str, AfterValidator(_known_kind)]
    messages: list[dict[str, Any]]
    input: str | list[Any]
    prompt: str | list[Any]
    query: str
    documents: list[Any]
    text: str
    max_tokens: Tokens | None
    max_completion_tokens: Tokens | None
    max_output_tokens: Tokens | None
    max_length: Tokens | None
    n: Annotated[int, Field(ge=1, le=128)] | None


@with_config(ConfigDict(extra="allow", strict=True))
class EstimateRequest(_Estimated):
    """Any request of the other routes; `kind` where its fields do not say which."""

    model: Model


_REQUEST: Final = TypeAdapter(EstimateRequest)


def check_estimate(document: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422)."""
    try:
        _REQUEST.validator.validate_python(document)
    except ValidationError as exc:
        raise from_pydantic(exc) from None
