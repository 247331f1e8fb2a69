"""`GET /api/v1/models`: what each model holds, can and costs, and where that was read."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request

from api.deps import Broker, authenticate, broker_of
from api.model_names import aliases, names_in, routes
from api.unified_v1.model_schemas import ModelCapabilities, ModelCapabilitiesList, ModelPrices
from api.unified_v1.schemas import ErrorAnswer
from shared.domain.roles import Permission
from shared.money import MICRO_PER_USD
from shared.providers.catalogue import ListedModel, Model, Prices
from shared.routing.table import written

router: Final = APIRouter(tags=["Unified"])


@router.get("/api/v1/models", summary="List models", responses={401: {"model": ErrorAnswer}})
async def list_models(request: Request) -> ModelCapabilitiesList:
    via = broker_of(request)
    await authenticate(request, via, Permission.MODELS_READ)
    return ModelCapabilitiesList(
        models=[_view(name, owner, model, via) for name, owner, model in names_in(via)],
        aliases={name: via.catalogue.aliases[name] for name in aliases(via)},
        routes={route.name: [written(target) for target in route.targets] for route in routes(via)},
    )


def _view(name: str, owner: str, model: Model | ListedModel | None, via: Broker) -> ModelCapabilities:
    if isinstance(model, Model):
        return ModelCapabilities(
            id=name,
            provider=owner,
            name=model.name,
            aliases=list(model.aliases),
            capabilities=sorted(model.capabilities),
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            usd_per_million=_prices(model.prices),
            note=model.note,
            source=model.source,
            read=model.read,
            verified=model.verified,
        )
    profile = via.registry.get(owner)
    return ModelCapabilities(
        id=name,
        provider=owner,
        name=(model and model.name) or name,
        context_tokens=model and model.context_tokens,
        max_output_tokens=model and model.max_output_tokens,
        usd_per_million=_prices(model.prices) if model else None,
        source=f"the model list of {profile.name}" if model else f"the configuration of {profile.name}",
    )


def _prices(prices: Prices | None) -> ModelPrices | None:
    if prices is None:
        return None
    minutes, hour = prices.cache_write, prices.cache_write_1h
    return ModelPrices(
        prompt=prices.prompt / MICRO_PER_USD,
        cached_prompt=prices.cached_prompt / MICRO_PER_USD,
        completion=prices.completion / MICRO_PER_USD,
        cache_write=None if minutes is None else minutes / MICRO_PER_USD,
        cache_write_1h=None if hour is None else hour / MICRO_PER_USD,
    )
