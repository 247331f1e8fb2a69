"""`/api/v1/preferences`: what `"model": "auto"` means to the account of the caller."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter

from api.database import within_reach
from api.deps import Broker, authenticate, broker_of
from api.posted import posted
from api.unified_v1.preference_schemas import PreferenceIn, PreferenceOut
from api.unified_v1.schemas import ErrorAnswer
from shared.auth.preference import prefer
from shared.clock import SystemClock
from shared.db.repositories import preferences
from shared.domain.job import FallbackOn
from shared.domain.principal import Preference
from shared.domain.roles import Permission
from shared.errors import NotFound
from shared.ids import AccountId
from shared.requests.checking import check, fault
from shared.routing.fallbacks import FIELD, refuse_presets
from shared.routing.table import CALLERS_CHOICE

router: Final = APIRouter(prefix="/api/v1/preferences", tags=["Unified"])

_PREFERENCE: Final = TypeAdapter(PreferenceIn)
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model"]},
                "example": {
                    "model": "openai/gpt-4o-mini",
                    "fallback_models": ["anthropic/claude-haiku-4-5"],
                    "fallback_on": ["context_length"],
                },
            }
        },
    }
}


@router.get("", summary="Read the preference", responses={s: {"model": ErrorAnswer} for s in (401, 404, 503)})
async def get(request: Request) -> PreferenceOut:
    """404 while the account has none: `auto` is then the default model."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.MODELS_READ)
    return await _stored(principal.account, via)


@router.put(
    "",
    summary="Store a preference",
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422, 503)},
    openapi_extra=_REQUEST_BODY,
)
async def put(request: Request) -> PreferenceOut:
    """In the place of the one before; every process knows it within seconds. `model` is anything
    that a request may name: a model, an alias, a preset or a route.
    """
    asked = await posted(request, permission=Permission.PREFERENCES_WRITE)
    document, via = asked.document, asked.via
    check(_PREFERENCE, document)
    preference = Preference(
        document["model"],
        tuple(document.get("fallback_models", ())),
        frozenset(map(FallbackOn, document.get("fallback_on", ()))),
    )
    _check_names(preference, via)
    await _store(asked.principal.account, preference, via)
    return await _stored(asked.principal.account, via)


@router.delete(
    "",
    summary="Remove the preference",
    status_code=204,
    responses={s: {"model": ErrorAnswer} for s in (401, 503)},
)
async def delete(request: Request) -> None:
    """Again is harmless."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.PREFERENCES_WRITE)
    await _store(principal.account, None, via)


def _check_names(preference: Preference, via: Broker) -> None:
    """Raises ModelNotFound, or InvalidRequest for a preference of a preference."""
    if preference.model in CALLERS_CHOICE:
        raise fault("model", "stands for the preference itself")
    if preference.model not in via.registry.presets:
        via.router.leads_to(preference.model)
    refuse_presets(preference.fallback_models, via)
    for model in preference.fallback_models:
        via.router.leads_to(model, param=FIELD)


async def _stored(account: AccountId, via: Broker) -> PreferenceOut:
    async with within_reach("Preferences"), via.engine.connect() as connection:
        stored = await preferences.find(connection, account)
    if stored is None:
        raise NotFound("This account has no preference.")
    return PreferenceOut(
        model=stored.preference.model,
        fallback_models=list(stored.preference.fallback_models),
        fallback_on=sorted(stored.preference.fallback_on),
        updated_at=stored.updated_at,
    )


async def _store(account: AccountId, preference: Preference | None, via: Broker) -> None:
    async with within_reach("Preferences"):
        await prefer(
            via.engine, via.link, account, preference, clock=SystemClock(), settings=via.settings.auth
        )
