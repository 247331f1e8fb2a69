"""The scheduler process: an arq worker whose cron and hooks carry the duties."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import arq
import orjson
from loguru import logger
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.duties.alert_quotas import alert_quotas
from scheduler.duties.forget_consumers import forget_consumers
from scheduler.duties.promote_retries import promote_retries
from scheduler.duties.remove_old import remove_old
from scheduler.duties.settle_usage import settle_usage
from shared.accounting.ledger import LedgerWriter
from shared.accounting.quota_alerts import QuotaAlerts
from shared.clock import SystemClock
from shared.db.engine import create_engine, url_of
from shared.egress.rules import EgressRules
from shared.egress.transport import GuardedTransport
from shared.providers.registry import Registry
from shared.queue.arq_pool import TAG, arq_pool
from shared.queue.consumer import consumer_name
from shared.queue.links import open_link
from shared.queue.redis_link import RedisLink
from shared.settings import Settings

_QUEUE = f"hr:{TAG}:scheduler"
_RESTART_SECONDS = 1.0


async def run_scheduler(settings: Settings, redis_url: str) -> None:
    """Until SIGTERM or SIGINT. arq's loop ends when Redis goes away; it is started again."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    queue = settings.queue
    link = open_link(redis_url, timeout=queue.worker_timeout_seconds)
    # Its own: while it waits for usage, nothing else gets an answer on its connections.
    ledger_link = link.another(timeout=queue.worker_timeout_seconds + queue.block_seconds)
    engine = create_engine(url_of(settings))
    providers = list(Registry.from_settings(settings).profiles)
    rules = EgressRules.of(settings.egress, production=settings.environment == "production")
    quota_alerts = QuotaAlerts(engine, GuardedTransport(rules))
    ledger = LedgerWriter(
        ledger_link,
        engine,
        shards=queue.shards,
        consumer=consumer_name(),
        on_counts=quota_alerts.note,
        markup_percent=settings.billing_markup_percent,
    )
    logger.info("scheduler started")
    try:
        async with asyncio.TaskGroup() as duties:
            running = [
                duties.create_task(promote_retries(link, providers, queue), name="promote"),
                duties.create_task(settle_usage(ledger), name="settle-usage"),
                duties.create_task(alert_quotas(quota_alerts), name="alert-quotas"),
                duties.create_task(_keep_cron(redis_url, settings, link, engine, providers), name="cron"),
            ]
            await stopped.wait()
            for task in running:
                task.cancel()
    finally:
        await link.close()
        await ledger_link.close()
        await engine.dispose()
    logger.info("scheduler stopped")


async def _keep_cron(
    redis_url: str, settings: Settings, link: RedisLink, engine: AsyncEngine, providers: list[str]
) -> None:
    shards = settings.queue.shards

    async def housekeeping(ctx: dict[Any, Any], *_: Any, **__: Any) -> None:
        removed = await forget_consumers(link, providers, shards=shards)
        if removed:
            logger.info("consumers forgotten", count=removed)

    async def retention(ctx: dict[Any, Any], *_: Any, **__: Any) -> None:
        removed = await remove_old(engine, settings, clock=SystemClock())
        if any(removed.values()):
            logger.info("old rows removed", **removed)

    while True:
        pool = arq_pool(
            redis_url,
            timeout=settings.queue.worker_timeout_seconds,
            default_queue_name=_QUEUE,
            job_serializer=orjson.dumps,
            job_deserializer=orjson.loads,
        )
        worker = arq.Worker(
            cron_jobs=[
                arq.cron(housekeeping, name=f"{TAG}housekeeping", second=0),
                arq.cron(retention, name=f"{TAG}retention", minute={7, 37}, second=0, timeout=600),
            ],
            redis_pool=pool,
            queue_name=_QUEUE,
            job_serializer=orjson.dumps,
            job_deserializer=orjson.loads,
            handle_signals=False,
            log_results=False,
        )
        try:
            await worker.async_run()
        except (RedisError, OSError) as exc:
            logger.warning("cron restarts", error=type(exc).__name__)
        finally:
            await pool.connection_pool.disconnect()
        await asyncio.sleep(_RESTART_SECONDS)
