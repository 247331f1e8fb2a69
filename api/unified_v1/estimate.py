"""`POST /api/v1/estimate`: what a request would cost. Nothing is queued, no provider is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request

from api.deps import Broker, authenticate, broker_of
from api.named_target import take_plan
from api.request_body import read_body
from api.unified_v1.model_schemas import CostEstimate, check_estimate
from api.unified_v1.schemas import ErrorAnswer
from shared.domain.job import JobKind
from shared.domain.roles import Permission
from shared.errors import InvalidRequest, ModelNotFound
from shared.money import MICRO_PER_USD
from shared.providers.duties import estimate_cost
from shared.providers.profile import Capability
from shared.requests.json_body import parse_object

router: Final = APIRouter(tags=["Unified"])

_FIELDS: Final = (
    ("messages", JobKind.CHAT),
    ("documents", JobKind.RERANK),
    ("prompt", JobKind.COMPLETION),
    ("input", JobKind.RESPONSES),
    ("text", JobKind.SUMMARIZATION),
)
"""What a request holds says what it is, save `input`: embeddings have that too."""


@router.post(
    "/api/v1/estimate",
    summary="Estimate what a request costs",
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 404, 413, 415, 422)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "required": ["model"]},
                    "example": {
                        "provider": "openai",
                        "model": "gpt-4o-mini",
                        "messages": [{"role": "user", "content": "Hello"}],
                        "max_tokens": 256,
                    },
                }
            },
        }
    },
)
async def estimate(request: Request) -> CostEstimate:
    """Takes the body of any other route. Tokens count as in the model's family, media by the piece."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.MODELS_READ)
    document = parse_object(await read_body(request.receive, limit=via.settings.api.max_body_bytes))
    check_estimate(document)
    kind = _kind_of(document, via)
    target = take_plan(document, kind, request, principal, via).targets[0]
    profile = via.registry.get(target.provider)
    cost = estimate_cost(profile, target.model, kind, document, via.catalogue)
    high = cost.high_micro_usd
    return CostEstimate(
        provider=target.provider,
        model=target.model,
        kind=kind,
        prompt_tokens=cost.prompt_tokens,
        max_completion_tokens=cost.max_completion_tokens,
        known=cost.known,
        low_micro_usd=cost.low_micro_usd,
        high_micro_usd=high,
        low_usd=cost.low_micro_usd / MICRO_PER_USD,
        high_usd=None if high is None else high / MICRO_PER_USD,
        note=cost.note,
    )


def _kind_of(document: Mapping[str, Any], via: Broker) -> JobKind:
    if named := document.get("kind"):
        return JobKind(named)
    kind = next((kind for field, kind in _FIELDS if field in document), None)
    if kind is None:
        names = ", ".join(field for field, _ in _FIELDS)
        raise InvalidRequest(f"messages: one of {names} is required", param="messages")
    return JobKind.EMBEDDINGS if kind is JobKind.RESPONSES and _embeds(document, via) else kind


def _embeds(document: Mapping[str, Any], via: Broker) -> bool:
    provider, name = document.get("provider"), document["model"]
    try:
        first, *_ = via.router.leads_to(name if provider is None else f"{provider}/{name}")
    except ModelNotFound:
        return False
    model = via.catalogue.of_provider(first.provider, first.model)
    return model is not None and Capability.EMBEDDINGS in model.capabilities
