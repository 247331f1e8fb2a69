"""The scheduler process: an arq worker whose cron and hooks carry the duties."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from typing import Any

import arq
import orjson
from loguru import logger
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.backlogs import BacklogReader
from scheduler.batches.means import Means, keep_looking
from scheduler.duties.alert_quotas import alert_quotas
from scheduler.duties.deliver_webhooks import WebhookDeliverer, deliver_webhooks
from scheduler.duties.expire_files import expire_files
from scheduler.duties.forget_consumers import forget_consumers
from scheduler.duties.keep_results import Keeper, keep_results
from scheduler.duties.promote_retries import promote_retries
from scheduler.duties.reconcile_jobs import Reconciler, reconcile_jobs
from scheduler.duties.remove_old import remove_old
from scheduler.duties.run_batches import batch_runner
from scheduler.duties.settle_usage import settle_usage
from scheduler.state import SchedulerState
from shared.accounting.ledger import LedgerWriter
from shared.accounting.quota_alerts import QuotaAlerts
from shared.clock import SystemClock
from shared.db.engine import create_engine, url_of
from shared.egress.rules import EgressRules
from shared.egress.transport import GuardedTransport
from shared.limits.reservations import Reservations
from shared.observability import metrics
from shared.observability.metrics import Duty
from shared.observability.process_port import serving
from shared.providers.catalogue import use_catalogue
from shared.providers.registry import Registry
from shared.queue.arq_pool import TAG, arq_pool
from shared.queue.consumer import consumer_name
from shared.queue.ended import EndedJobs
from shared.queue.links import open_link
from shared.queue.producer import Producer
from shared.queue.redis_link import RedisLink
from shared.settings import Settings
from shared.storage.objects import Storage
from shared.storage.opening import open_storage
from shared.webhooks.signing import WebhookSecrets

_QUEUE = f"hr:{TAG}:scheduler"
_RESTART_SECONDS = 1.0


async def run_scheduler(settings: Settings, redis_url: str, pepper: bytes) -> None:
    """Until SIGTERM or SIGINT. arq's loop ends when Redis goes away; it is started again.

    `pepper`: what the secrets that sign webhooks are derived from.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    queue = settings.queue
    link = open_link(redis_url, timeout=queue.worker_timeout_seconds)
    # Its own: while it waits for usage, nothing else gets an answer on its connections.
    ledger_link = link.another(timeout=queue.worker_timeout_seconds + queue.block_seconds)
    keeper_link = link.another(timeout=queue.worker_timeout_seconds + queue.block_seconds)
    engine = create_engine(url_of(settings))
    registry = Registry.from_settings(settings)
    metrics.know_providers(registry.profiles)
    providers = list(registry.profiles)
    storage = open_storage(settings)
    rules = EgressRules.of(settings.egress, production=settings.environment == "production")
    secrets = WebhookSecrets(pepper)
    quota_alerts = QuotaAlerts(engine, GuardedTransport(rules), secrets, Reservations(link).passed)
    patient = replace(rules, total_seconds=settings.webhooks.timeout_seconds)
    deliverer = WebhookDeliverer(engine, GuardedTransport(patient), secrets, settings.webhooks)
    ledger = LedgerWriter(
        ledger_link,
        engine,
        shards=queue.shards,
        consumer=consumer_name(),
        on_counts=quota_alerts.note,
        markup_percent=settings.billing_markup_percent,
    )
    ended = EndedJobs(link, queue)
    means = Means(link, settings, registry)
    use_catalogue(means.catalogue)
    state = SchedulerState(link, BacklogReader(engine), stopped, region=settings.region)
    runner = batch_runner(link, engine, storage, means, settings, on_round=state.of(Duty.RUN_BATCHES))
    keeper = Keeper(EndedJobs(keeper_link, queue), engine, on_lines=runner.on_lines)
    reconciler = Reconciler(ended, Keeper(ended, engine), Producer(link, queue), engine, settings.jobs)
    logger.info("scheduler started")
    try:
        async with (
            serving(settings.metrics_host, settings.metrics_port, state.answers(settings)),
            asyncio.TaskGroup() as duties,
        ):
            running = [
                duties.create_task(duty, name=name)
                for name, duty in (
                    ("promote", promote_retries(link, providers, queue, state.of(Duty.PROMOTE))),
                    ("settle-usage", settle_usage(ledger, state.of(Duty.SETTLE_USAGE))),
                    ("alert-quotas", alert_quotas(quota_alerts, state.of(Duty.ALERT_QUOTAS))),
                    ("keep-results", keep_results(keeper, state.of(Duty.KEEP_RESULTS))),
                    (
                        "reconcile-jobs",
                        reconcile_jobs(
                            reconciler,
                            every_seconds=settings.jobs.reconcile_seconds,
                            on_round=state.of(Duty.RECONCILE_JOBS),
                        ),
                    ),
                    ("deliver-webhooks", deliver_webhooks(deliverer, state.of(Duty.DELIVER_WEBHOOKS))),
                    ("cron", _keep_cron(redis_url, settings, link, engine, storage, providers, state)),
                    ("means", keep_looking(means)),
                    ("run-batches", runner.run()),
                )
            ]
            await stopped.wait()
            for task in running:
                task.cancel()
    finally:
        await link.close()
        await ledger_link.close()
        await keeper_link.close()
        await engine.dispose()
        await storage.aclose()
    logger.info("scheduler stopped")


async def _keep_cron(
    redis_url: str,
    settings: Settings,
    link: RedisLink,
    engine: AsyncEngine,
    storage: Storage,
    providers: list[str],
    state: SchedulerState,
) -> None:
    shards = settings.queue.shards

    async def housekeeping(ctx: dict[Any, Any], *_: Any, **__: Any) -> None:
        removed = await forget_consumers(link, providers, shards=shards)
        if removed:
            logger.info("consumers forgotten", count=removed)
        state.of(Duty.HOUSEKEEPING)(True)

    async def retention(ctx: dict[Any, Any], *_: Any, **__: Any) -> None:
        removed = await remove_old(engine, settings, clock=SystemClock())
        if any(removed.values()):
            logger.info("old rows removed", **removed)
        removed = await expire_files(engine, storage, clock=SystemClock())
        if any(removed.values()):
            logger.info("old files removed", **removed)
        state.of(Duty.RETENTION)(True)

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
