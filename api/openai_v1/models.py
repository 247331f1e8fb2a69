"""`GET /v1/models` and `/v1/models/{id}`: OpenAI's form, and Anthropic's for its clients."""

from __future__ import annotations

from typing import Final

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from api.anthropic_v1.models import ModelInfo, ModelPage, moment, page_of
from api.deps import Broker, authenticate, broker_of
from api.model_names import Known, everything
from api.openai_v1.schemas import ErrorAnswer, ModelCard, ModelList
from api.responses import json_response
from shared.domain.job import Surface
from shared.domain.roles import Permission
from shared.errors import ModelNotFound
from shared.providers.catalogue import Model

router: Final = APIRouter()


def _find(wanted: str, via: Broker) -> tuple[str, str, Known]:
    """Raises ModelNotFound."""
    for name, owner, model in everything(via):
        if wanted in {name, f"{owner}/{name}"}:
            return name, owner, model
        if isinstance(model, Model) and wanted in model.aliases:
            return wanted, owner, model
    raise ModelNotFound("There is no such model here.", param="model")


def _card(name: str, owner: str, model: Known) -> ModelCard:
    return ModelCard(id=name, created=0 if model is None else model.created, owned_by=owner)


def _info(name: str, _: str, model: Known) -> ModelInfo:
    return ModelInfo(
        id=name,
        display_name=(model and model.name) or name,
        created_at=moment(0 if model is None else model.created),
        max_input_tokens=model and model.context_tokens,
        max_tokens=model and model.max_output_tokens,
    )


def _speaks_anthropic(request: Request) -> bool:
    """Such clients always name the version they speak; errors are told in their form from here on."""
    if "anthropic-version" not in request.headers:
        return False
    request.scope["state"]["surface"] = Surface.ANTHROPIC
    return True


@router.get(
    "/v1/models",
    summary="List models",
    tags=["OpenAI"],
    response_model=ModelList | ModelPage,
    responses={401: {"model": ErrorAnswer}},
)
async def list_models(request: Request) -> Response:
    """In Anthropic's form, and in pages, when the request has an `anthropic-version`."""
    via = broker_of(request)
    anthropic = _speaks_anthropic(request)
    await authenticate(request, via, Permission.MODELS_READ)
    if anthropic:
        return _answer(page_of([_info(*about) for about in everything(via)], request.query_params))
    return _answer(ModelList(data=[_card(*about) for about in everything(via)]))


@router.get(
    "/v1/models/{model:path}",
    summary="Describe a model",
    tags=["OpenAI"],
    response_model=ModelCard | ModelInfo,
    responses={401: {"model": ErrorAnswer}, 404: {"model": ErrorAnswer}},
)
async def get_model(request: Request, model: str) -> Response:
    """Ids may hold slashes: `provider/model`."""
    via = broker_of(request)
    anthropic = _speaks_anthropic(request)
    await authenticate(request, via, Permission.MODELS_READ)
    about = _find(model, via)
    return _answer(_info(*about) if anthropic else _card(*about))


def _answer(view: BaseModel) -> Response:
    return json_response(orjson.dumps(view.model_dump()), [])
