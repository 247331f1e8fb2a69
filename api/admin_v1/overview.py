"""`/api/v1/admin/overview`: how the broker does at this moment, for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from fastapi import APIRouter, Request
from pydantic import BaseModel
from redis.exceptions import RedisError

from api.admin_v1.accounts import Operator, errors
from api.deps import Broker, broker_of
from api.health import database_state
from api.unified_v1.providers import health_of
from shared.clock import SystemClock
from shared.domain.conditions import UNKNOWN, BreakerState
from shared.domain.job import Lane
from shared.observability import metrics
from shared.providers.model_lists import ProviderStatus
from shared.queue import depth, settling
from shared.queue.depth import LaneDepth

router: Final = APIRouter(tags=["Admin"])


class LaneOverview(BaseModel):
    """`queued`: jobs no worker has, `waiting` of them in the backlog behind the ready lane. `oldest_seconds`:
    how long the first of them waits.
    """

    lane: Lane
    queued: int
    waiting: int
    in_flight: int
    oldest_seconds: float


class ProviderOverview(BaseModel):
    """`slots`: jobs that its live `workers` run at once, at most. `breaker`, `paused_seconds`: of the
    broker's own credential.
    """

    id: str
    name: str
    status: ProviderStatus
    breaker: BreakerState
    open_seconds: float
    paused_seconds: float
    workers: int
    slots: int
    dead_letters: int
    lanes: list[LaneOverview]


class Settling(BaseModel):
    """What ended and is not in the database yet. `rejected`: what the ledger will never take."""

    ledger_entries: int
    ledger_seconds: float
    rejected: int
    unkept_jobs: int
    unkept_seconds: float


class ThisProcess(BaseModel):
    """Of the api process that answered, since `started_at`; the others count theirs. `replays`: requests
    that another one's job answered, by why.
    """

    started_at: datetime
    replays: dict[str, int]
    waiting_requests: int


class Overview(BaseModel):
    """While Redis is away nothing that was read of it is told again: nulls, and no providers."""

    at: datetime
    redis: str
    database: str
    scheduler: bool | None
    redis_used_bytes: int | None
    redis_max_bytes: int | None
    providers: list[ProviderOverview]
    settling: Settling | None
    process: ThisProcess


@router.get("/api/v1/admin/overview", summary="How the broker does", responses=errors())
async def overview(request: Request, _: Operator) -> Overview:
    """Queues, workers, breakers and pauses by provider: of those that are served, and of those where
    something waits or lies dead. The same numbers as in /metrics.
    """
    via = broker_of(request)
    shards = via.settings.queue.shards
    database = asyncio.create_task(database_state(via))
    redis, lanes, dead, settled = "connected", list[LaneDepth](), dict[str, int](), dict[str, float]()
    try:
        lanes = await depth.measure(via.link, list(via.registry.profiles), shards=shards)
        dead = await via.dead_letters.count()
        settled = {one.name: one.value for one in await settling.measure(via.link, shards=shards)}
    except (RedisError, OSError):
        redis, lanes, dead, settled = "unavailable", [], {}, {}
    is_known = redis == "connected"
    shown = {lane.provider for lane in lanes if lane.queued or lane.in_flight}
    shown |= {name for name, letters in dead.items() if letters}
    if is_known:
        shown |= set(via.providers())
    return Overview(
        at=SystemClock().now(),
        redis=redis,
        database=await database,
        scheduler=bool(settled["gateway_scheduler_up"]) if settled else None,
        redis_used_bytes=via.memory.used_bytes if is_known else None,
        redis_max_bytes=via.memory.max_bytes or None if is_known else None,
        providers=[
            _provider(via, name, [lane for lane in lanes if lane.provider == name], dead.get(name, 0))
            for name in via.registry.profiles
            if name in shown
        ],
        settling=_settling(settled) if settled else None,
        process=ThisProcess(
            started_at=request.app.state.started_at,
            replays=metrics.replays(),
            waiting_requests=via.replies.waiting,
        ),
    )


def _provider(via: Broker, name: str, lanes: Sequence[LaneDepth], dead_letters: int) -> ProviderOverview:
    profile, condition = via.registry.get(name), via.conditions.get(name, UNKNOWN)
    return ProviderOverview(
        id=name,
        name=profile.name,
        status=health_of(profile, via).status,
        breaker=condition.breaker,
        open_seconds=round(condition.open_seconds, 3),
        paused_seconds=round(condition.paused_seconds, 3),
        workers=condition.workers,
        slots=condition.slots,
        dead_letters=dead_letters,
        lanes=[
            LaneOverview(
                lane=lane.lane,
                queued=lane.queued,
                waiting=lane.waiting,
                in_flight=lane.in_flight,
                oldest_seconds=round(lane.oldest_age_seconds, 3),
            )
            for lane in lanes
        ],
    )


def _settling(found: dict[str, float]) -> Settling:
    return Settling(
        ledger_entries=int(found["gateway_ledger_lag_entries"]),
        ledger_seconds=round(found["gateway_ledger_lag_seconds"], 3),
        rejected=int(found["gateway_ledger_rejected_entries"]),
        unkept_jobs=int(found["gateway_unkept_jobs"]),
        unkept_seconds=round(found["gateway_unkept_job_seconds"], 3),
    )
