"""Ask the providers this worker serves which models they have; one worker at a time asks each.

    SET hr:models:due:<provider> NX, 30 s ──> GET models_path ──> list and health stored
        again in model_list_seconds, or in a minute while it does not answer

That is a cheap look at their health too: it costs no tokens.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from loguru import logger
from redis.exceptions import RedisError

from shared import keyspace
from shared.domain.job import Target
from shared.errors import ProviderError, ProviderTimeout, ProviderUnavailable
from shared.providers.catalogue import ListedModel
from shared.providers.model_lists import (
    LIST_SECONDS,
    LOOK_SECONDS,
    HealthRecord,
    ModelLists,
    ProviderStatus,
    list_to_wire,
)
from shared.providers.profile import ProviderProfile
from shared.queue.redis_link import RedisLink
from workers.call_provider import FOREIGN, map_foreign
from workers.fetch_models import fetch_models
from workers.run_job import WorkerContext

RETRY_SECONDS: Final = 60.0
_CLAIM_SECONDS: Final = 30.0
"""Longer than one look takes, so that a worker that dies meanwhile costs no more than this."""


async def keep_models(context: WorkerContext, link: RedisLink, providers: Sequence[str]) -> None:
    """For as long as the worker lives; what any worker found is in this one's catalogue too."""
    lists = ModelLists(link, providers)
    while True:
        try:
            await asyncio.gather(*(refresh(context, link, provider) for provider in providers))
            if await lists.look():
                context.catalogue.relist(lists.models())
        except (RedisError, OSError) as exc:
            logger.debug("models not refreshed", error=type(exc).__name__)
        await asyncio.sleep(random.uniform(0.5, 1.0) * LOOK_SECONDS)  # noqa: S311 - jitter


async def refresh(context: WorkerContext, link: RedisLink, provider: str) -> HealthRecord | None:
    """What was found, or None when it is not due. Raises RedisError."""
    profile = context.registry.get(provider)
    due = keyspace.models_due(provider)
    if not profile.models_path or not await link.execute("SET", due, "1", "NX", "PX", _ms(_CLAIM_SECONDS)):
        return None
    record, models = await _ask(context, profile)
    commands: list[tuple[Any, ...]] = []
    if models is not None:
        commands.append(("SET", keyspace.models(provider), list_to_wire(models), "PX", _ms(LIST_SECONDS)))
    elif before := await link.execute("GET", keyspace.health(provider)):
        # What it listed before still stands.
        listed_at = HealthRecord.from_wire(before).listed_at
        record = HealthRecord(record.status, record.checked_at, record.latency_ms, record.error, listed_at)
    commands.append(("SET", keyspace.health(provider), record.to_wire(), "PX", _ms(LIST_SECONDS)))
    well = record.status is ProviderStatus.ONLINE
    pause = context.settings.provider.model_list_seconds if well else RETRY_SECONDS
    commands.append(("SET", due, "1", "PX", _ms(pause)))
    for answer in await link.execute_many(commands):
        if isinstance(answer, BaseException):
            raise answer
    count = len(models or ())
    logger.debug(
        "models refreshed", provider=provider, status=record.status, models=count, error=record.error
    )
    return record


async def _ask(
    context: WorkerContext, profile: ProviderProfile
) -> tuple[HealthRecord, list[ListedModel] | None]:
    """No list where the provider gave none: it failed, or keeps none."""
    started = time.monotonic()
    models, error = None, None
    try:
        target = Target(profile.id, "")
        models = await fetch_models(
            context.transport,
            profile,
            context.settings.provider,
            credential=target.credential,
            auth_headers=context.credentials.headers(target, profile),
        )
    except ProviderError as exc:
        error = exc
    except (TimeoutError, *FOREIGN) as exc:
        error = map_foreign(exc, profile)
    status = ProviderStatus.ONLINE
    if error is not None:
        gone = isinstance(error, ProviderUnavailable | ProviderTimeout)
        status = ProviderStatus.OFFLINE if gone else ProviderStatus.DEGRADED
    now = time.time()
    record = HealthRecord(
        status=status,
        checked_at=now,
        latency_ms=int((time.monotonic() - started) * 1000),
        error=None if error is None else error.code,
        listed_at=None if models is None else now,
    )
    return record, models


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
