"""Health, readiness and metrics. `/health/live` depends on nothing: it is asked of a wounded process.

`router` is for whoever balances the load, and open; `details` tell how busy the broker is and with
which providers, so in production they are for operators alone, or stand on the admin port.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from redis.exceptions import RedisError
from sqlalchemy import text
from starlette.responses import Response

from api import sse
from api.deps import Broker, broker_of
from api.responses import json_response
from shared.db.engine import DATABASE_ERRORS
from shared.errors import NotFound
from shared.observability import metrics
from shared.observability.metrics import Reading
from shared.queue import depth, settling
from shared.queue.eviction import EvictionWatch

router: Final = APIRouter(tags=["Operations"])
details: Final = APIRouter(tags=["Operations"])

_CHECK_SECONDS: Final = 1.0


@router.get("/health/live", summary="Is this process alive")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/health/ready", summary="May this process get requests")
async def ready(request: Request) -> Response:
    via = broker_of(request)
    if request.app.state.draining:
        return _answer({"status": "draining"}, 503)
    redis, database = await asyncio.gather(redis_state(via), database_state(via))
    view: dict[str, Any] = {"redis": redis, "database": database}
    evictions: EvictionWatch = request.app.state.evictions
    if redis == "connected" and (reason := await evictions.complaint()) is not None:
        redis = "evicts"
        view |= {"redis": redis, "reason": reason}
    # The sync path makes no database call, so requests are welcome without one.
    status = "unavailable" if redis != "connected" else _grade(database == "connected")
    return _answer({"status": status, **view}, 503 if status == "unavailable" else 200)


@details.get("/health", summary="What works")
async def health(request: Request) -> Response:
    via = broker_of(request)
    redis, database = await asyncio.gather(redis_state(via), database_state(via))
    queues = "unknown"
    if redis == "connected":
        queues = "connected" if via.replies.subscription.is_open else "reconnecting"
    whole = redis == database == "connected" and queues == "connected"
    return _answer(
        {
            "status": _grade(whole) if redis == "connected" else "unavailable",
            "redis": redis,
            "database": database,
            **({"region": via.settings.region} if via.settings.region else {}),
            "inference": {
                "providers": via.providers(),
                "replies": queues,
                "waiting_requests": via.replies.waiting,
            },
        },
        200 if redis == "connected" else 503,
    )


@details.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def prometheus(request: Request) -> Response:
    via = broker_of(request)
    if not via.settings.metrics_enabled:
        raise NotFound("Metrics are switched off.")
    shards = via.settings.queue.shards
    database = asyncio.create_task(database_state(via))
    try:
        depths = await depth.measure(via.link, list(via.registry.profiles), shards=shards)
        dead = await via.dead_letters.count()
        shared = [*await settling.measure(via.link, shards=shards), *_memory(via)]
        evictions: EvictionWatch = request.app.state.evictions
        ready = not request.app.state.draining and await evictions.complaint() is None
    except (RedisError, OSError):
        # The rest of the page is worth most when Redis is away.
        depths, dead, shared, ready = [], {}, [], False
    readings = [
        *metrics.of_process("api", ready=ready, region=via.settings.region),
        *shared,
        Reading("gateway_database_up", float(await database == "connected")),
        Reading("gateway_open_streams", sse.open_streams()),
        Reading("gateway_waiting_requests", via.replies.waiting),
    ]
    return Response(metrics.render(depths, dead, via.conditions, readings), media_type=metrics.CONTENT_TYPE)


def _memory(via: Broker) -> list[Reading]:
    found = [Reading("gateway_redis_memory_bytes", via.memory.used_bytes, ("used",))]
    if via.memory.max_bytes:
        found.append(Reading("gateway_redis_memory_bytes", via.memory.max_bytes, ("max",)))
    return found


async def redis_state(via: Broker) -> str:
    try:
        await via.link.execute("PING")
    except (RedisError, OSError):
        return "unavailable"
    return "connected"


async def database_state(via: Broker) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS), via.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except DATABASE_ERRORS:
        return "unavailable"
    return "connected"


def _grade(whole: bool) -> str:
    return "ok" if whole else "degraded"


def _answer(view: dict[str, Any], status: int) -> Response:
    return json_response(orjson.dumps(view), [], status=status)
