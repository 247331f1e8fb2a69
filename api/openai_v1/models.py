"""`GET /v1/models` and `/v1/models/{id}`: OpenAI's form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fastapi import APIRouter, Request

from api.deps import Broker, authenticate, broker_of
from api.openai_v1.schemas import ErrorAnswer, ModelCard, ModelList
from shared.errors import ModelNotFound

router: Final = APIRouter()


def model_cards(via: Broker) -> Iterator[ModelCard]:
    """What may be asked for by name: catalogue models of served providers, and listed custom ones."""
    for provider_id in via.providers():
        profile = via.registry.get(provider_id)
        known = [model for model in via.catalogue.models() if model.provider == provider_id]
        for model in known:
            yield ModelCard(id=model.id, created=model.created, owned_by=provider_id)
        for name in profile.models:
            if all(model.id != name for model in known):
                yield ModelCard(id=f"{provider_id}/{name}", created=0, owned_by=provider_id)


@router.get("/v1/models", summary="List models", tags=["OpenAI"], responses={401: {"model": ErrorAnswer}})
async def list_models(request: Request) -> ModelList:
    via = broker_of(request)
    await authenticate(request, via)
    return ModelList(data=list(model_cards(via)))


@router.get(
    "/v1/models/{model:path}",
    summary="Describe a model",
    tags=["OpenAI"],
    responses={401: {"model": ErrorAnswer}, 404: {"model": ErrorAnswer}},
)
async def get_model(request: Request, model: str) -> ModelCard:
    """Ids may hold slashes: `provider/model`."""
    via = broker_of(request)
    await authenticate(request, via)
    cards = list(model_cards(via))
    for card in cards:
        if model in {card.id, f"{card.owned_by}/{card.id}"}:
            return card
    raise ModelNotFound("There is no such model here.", param="model")
