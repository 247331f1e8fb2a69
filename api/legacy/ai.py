"""`POST /api/v1/ai/generate` and `GET /api/v1/ai/health`."""

from __future__ import annotations

import time
from typing import Final, Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.deps import Broker, authenticate, broker_of
from api.legacy.prompt_call import prompt_call, told, usage_of
from api.legacy.schemas import (
    AiHealth,
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
    HealthStatus,
    request_body,
)
from api.posted import posted
from api.submit import submit
from shared.domain.roles import Permission
from shared.domain.usage import Usage
from shared.money import MICRO_PER_USD
from shared.queue.frames import Result
from shared.requests.checking import check, fault

router: Final = APIRouter(prefix="/api/v1/ai", tags=["Older routes"])

_REQUEST: Final = TypeAdapter(GenerateRequest)


@router.post(
    "/generate",
    summary="Generate an answer",
    response_model=GenerateResponse,
    responses={s: {"model": ErrorResponse} for s in (400, 401, 404, 413, 415, 422, 429, 502, 503, 504)},
    openapi_extra=request_body(["prompt"], {"prompt": "What is a queue?", "options": {"max_tokens": 64}}),
)
async def generate(request: Request) -> Response:
    """An answer to `prompt` or `messages`, with what it cost and how long it took."""
    started_at = time.monotonic()
    asked = await posted(request)
    via = asked.via
    check(_REQUEST, asked.document)
    if (asked.document.get("prompt") is None) == (asked.document.get("messages") is None):
        raise fault("prompt", "either this or `messages` is required")

    def answer(result: Result) -> bytes:
        return _generate_response(result, via, latency_ms=int((time.monotonic() - started_at) * 1000))

    named = {name: value for name, value in asked.document.items() if name != "options" and value is not None}
    call = prompt_call({**(asked.document.get("options") or {}), **named}, asked, request, answer)
    return await submit(call, request, asked.principal, via)


def _generate_response(result: Result, via: Broker, *, latency_ms: int) -> bytes:
    answer, text = told(result)
    head = result.head
    cost = via.catalogue.cost_micro_usd(
        head.provider, head.model, Usage(head.prompt_tokens, head.completion_tokens)
    )
    return orjson.dumps(
        {
            "id": answer.get("id"),
            "text": text,
            "model": answer.get("model") or head.model,
            "provider": head.provider,
            "finish_reason": answer["choices"][0].get("finish_reason"),
            "usage": usage_of(result),
            "cost": {"amount": cost / MICRO_PER_USD, "currency": "USD"},
            "latency_ms": latency_ms,
        }
    )


@router.get("/health", summary="Which providers work", responses={401: {"model": ErrorResponse}})
async def health(request: Request) -> AiHealth:
    """`healthy` while the default provider is served, `degraded` while only others are."""
    via = broker_of(request)
    await authenticate(request, via, Permission.MODELS_READ)
    providers = [_health_of(provider_id, via) for provider_id in via.registry.profiles]
    online = [found for found in providers if found.status == "online"]
    status: Literal["healthy", "degraded", "unhealthy"] = "degraded" if online else "unhealthy"
    if any(found.default for found in online):
        status = "healthy"
    return AiHealth(status=status, providers=providers)


def _health_of(provider_id: str, via: Broker) -> HealthStatus:
    status: Literal["online", "offline", "unconfigured"] = "unconfigured"
    if provider_id in via.presence.served():
        status = "online"
    elif provider_id in via.registry.configured():
        status = "offline"
    return HealthStatus(
        provider=provider_id,
        name=via.registry.get(provider_id).name,
        status=status,
        default=provider_id == via.settings.default_provider,
    )
