"""The api process: what it is made of, and its life from boot to drain."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from random import Random
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import Depends, FastAPI
from loguru import logger
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp, Scope

from api import error_views, health
from api.account_v1 import (
    alerts,
    api_keys,
    audit,
    auth,
    credential_check,
    credentials,
    members,
    usage,
    webhook_deliveries,
    webhooks,
)
from api.admin_v1 import accounts, dead_letters, overview, users
from api.admin_v1.guard import require_admin
from api.anthropic_v1 import batches as message_batches
from api.anthropic_v1 import messages
from api.cohere_v2 import rerank as cohere_rerank
from api.dashboard import files as dashboard
from api.deps import Broker
from api.hot_routes import HotRoutes
from api.http_protocol import bounded_protocol
from api.job_rows import JobRows
from api.legacy import ai, generate_text, inference, summarize
from api.login_limits import LoginLimits
from api.middleware.cors import Cors
from api.middleware.edge import Edge
from api.openai_v1 import batches as openai_batches
from api.openai_v1 import chat_completions, completions, embeddings, files, models, rerank, responses
from api.openapi import describe
from api.replies import Replies
from api.server import Server
from api.unified_v1 import batches as unified_batches
from api.unified_v1 import chat, conversations, estimate, jobs, preferences, providers, quota
from api.unified_v1 import embeddings as unified_embeddings
from api.unified_v1 import models as unified_models
from api.unified_v1 import rerank as unified_rerank
from shared import keyspace
from shared.auth.access_tokens import access_tokens
from shared.auth.first_operator import FirstOperator, make_first_operator
from shared.auth.issuers import Issuers
from shared.auth.issuing import KeyIssuer
from shared.auth.lookup import KeyLookup
from shared.auth.passwords import Passwords
from shared.auth.sessions import Sessions
from shared.clock import SystemClock
from shared.crypto import Sealer
from shared.db.engine import DATABASE_ERRORS, create_engine, url_of
from shared.egress.rules import EgressRules
from shared.egress.transport import GuardedTransport
from shared.errors import BrokerError, RateLimited
from shared.ids import ApiKeyId
from shared.limits.admission import Admission
from shared.limits.redriven import RedrivenCounts
from shared.limits.reservations import LOOK_SECONDS as LEDGER_LOOK_SECONDS
from shared.limits.reservations import Reservations
from shared.limits.rules import Policies
from shared.observability import metrics
from shared.observability.loop_lag import watch_loop
from shared.providers.catalogue import Catalogue
from shared.providers.model_lists import LOOK_SECONDS as MODELS_LOOK_SECONDS
from shared.providers.model_lists import ModelLists
from shared.providers.registry import Registry
from shared.queue.conditions import LOOK_SECONDS as CONDITIONS_LOOK_SECONDS
from shared.queue.conditions import Conditions
from shared.queue.dead_letters import DeadLetters
from shared.queue.eviction import EvictionWatch
from shared.queue.frames import ResultHead
from shared.queue.job_status import JobStatuses
from shared.queue.links import open_link
from shared.queue.memory_watch import MemoryWatch
from shared.queue.presence import LOOK_SECONDS, Presence
from shared.queue.producer import Producer
from shared.queue.redis_link import RedisLink
from shared.routing.router import Router
from shared.routing.watch import LOOK_SECONDS as ROUTES_LOOK_SECONDS
from shared.routing.watch import RoutingWatch
from shared.settings import Settings
from shared.storage.opening import open_storage
from shared.webhooks.signing import WebhookSecrets

_KEY_VERSION_SECONDS: Final = 2.0
_FIRST_OPERATOR_SECONDS: Final = 5.0
OPEN_PATHS: Final = frozenset(
    {
        *("/health/live", "/health/ready"),
        *("/api/v1/auth/register", "/api/v1/auth/login", "/api/v1/auth/refresh", "/auth/login"),
    }
)
"""What asks for no credential, or for one that is no key."""
DETAILS: Final = frozenset({"/health", "/metrics"})
"""Nor do these, but in production."""
_UNMEASURED: Final = ("/health", "/metrics", "/docs", "/openapi.json", "/redoc", dashboard.PREFIX)
"""Paths that are about this process, not about inference."""

_OF_BATCHES: Final = (message_batches.PATH, unified_batches.PATH)
"""Where requests of a batch are in the body."""


def create_app(settings: Settings, redis_url: str, pepper: bytes) -> tuple[ASGIApp, FastAPI]:
    """The application as served (wrapped in the edge), and the FastAPI app within.

    `pepper`: the secret under which API keys are digested, and from which those of webhooks are derived.
    """
    registry = Registry.from_settings(settings)
    metrics.know_providers(registry.profiles)
    metrics.expect_refusals()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        link = open_link(redis_url, timeout=settings.queue.api_timeout_seconds)
        engine = create_engine(url_of(settings))
        tokens = access_tokens(settings)
        keys = KeyLookup(
            link,
            engine,
            pepper=pepper,
            settings=settings.auth,
            tokens=tokens,
            issuers=_issuers_of(settings),
        )
        passwords = Passwords(slots=settings.accounts.password_slots, queue=settings.accounts.password_queue)
        sessions = (
            None
            if tokens is None
            else Sessions(engine, tokens, passwords, pepper=pepper, settings=settings.accounts)
        )
        producer = Producer(link, settings.queue)
        presence = Presence(link, settings.queue, registry.profiles)
        memory = MemoryWatch(link, settings.queue)
        model_lists = ModelLists(link, registry.profiles)
        catalogue = Catalogue.load(settings.catalogue_file, providers=registry.profiles)
        reservations = Reservations(link)
        admission = Admission(reservations, engine, catalogue, registry, Policies.of(settings), settings)
        routing = RoutingWatch(settings.routing_file, registry, catalogue, settings.default_provider)
        conditions = Conditions(link, presence.served, shards=settings.queue.shards)
        replies = Replies(
            producer,
            redis_url,
            settings,
            also={
                keyspace.REVOKED_CHANNEL: lambda key_id: keys.on_revoked(ApiKeyId(key_id.decode())),
                keyspace.CONDITIONS_CHANNEL: conditions.on_message,
            },
        )
        app.state.broker = Broker(
            settings=settings,
            link=link,
            producer=producer,
            job_rows=JobRows(engine),
            dead_letters=DeadLetters(
                link,
                settings.queue,
                registry.profiles,
                counts=RedrivenCounts(reservations, catalogue, settings),
            ),
            job_statuses=JobStatuses(link, settings.queue),
            replies=replies,
            presence=presence,
            memory=memory,
            registry=registry,
            catalogue=catalogue,
            model_lists=model_lists,
            conditions=conditions,
            router=Router(
                routing,
                registry,
                catalogue,
                settings.default_provider,
                rng=Random(),  # noqa: S311 - shares of load, no secret
            ),
            keys=keys,
            issuer=KeyIssuer(pepper),
            passwords=passwords,
            engine=engine,
            admission=admission,
            login_limits=LoginLimits(reservations, settings.limits),
            webhook_secrets=WebhookSecrets(pepper),
            storage=open_storage(settings),
            sessions=sessions,
            sealer=None if settings.master_public_key is None else Sealer(settings.master_public_key),
        )
        await _make_first_operator(settings, engine, passwords)
        app.state.started_at = SystemClock().now()
        app.state.evictions = EvictionWatch(link)
        await app.state.evictions.complaint()  # at boot for its log line
        await replies.start()
        polls = [
            asyncio.create_task(_hear_revocations(link, keys), name="key-version"),
            asyncio.create_task(_look_for_workers(presence), name="presence"),
            asyncio.create_task(_look_at_conditions(conditions), name="conditions"),
            asyncio.create_task(_look_at_ledger(reservations), name="ledger"),
            asyncio.create_task(memory.look_forever(), name="memory"),
            asyncio.create_task(_look_for_models(app.state.broker), name="models"),
            asyncio.create_task(_look_for_routes(routing), name="routes"),
            asyncio.create_task(watch_loop(), name="loop-lag"),
        ]
        logger.info("api started", channel=replies.channel)
        yield
        await _end(polls)
        await replies.close()
        await admission.aclose()
        await app.state.broker.job_rows.aclose()
        await keys.aclose()
        await link.close()
        await engine.dispose()
        await app.state.broker.storage.aclose()
        passwords.close()
        logger.info("api stopped")

    app = FastAPI(
        title="Headrace",
        version=version("headrace"),
        summary="One API in front of every AI provider, with a durable queue in between.",
        lifespan=lifespan,
        # A redirect to the path without its slash would name whatever host the caller wrote.
        redirect_slashes=False,
        docs_url="/docs" if settings.serves_docs else None,
        redoc_url="/redoc" if settings.serves_docs else None,
        openapi_url="/openapi.json" if settings.serves_docs else None,
    )
    app.state.draining = False
    open_paths = OPEN_PATHS if settings.environment == "production" else OPEN_PATHS | DETAILS
    app.openapi = lambda: describe(app, open_paths)  # type: ignore[method-assign]  # as FastAPI documents it
    _include_routes(app, settings)
    error_views.install(app)
    hot = HotRoutes(
        app,
        {
            "/v1/chat/completions": chat_completions.chat_completions,
            "/v1/messages": messages.messages,
            "/api/v1/chat": chat.chat,
        },
    )
    edge = Edge(
        hot,
        settings=settings.api,
        log_requests=settings.log.requests,
        on_response=_measure,
        uploads=(files.PATH,),
        larger=dict.fromkeys(_OF_BATCHES, settings.batches.max_inline_bytes),
        pages=dashboard.PREFIX,
        cors=Cors(settings.cors) if settings.cors.origins else None,
    )
    return edge, app


def create_admin_app(settings: Settings, app: FastAPI) -> ASGIApp:
    """What the admin port serves, with the broker of `app`: as open as the port is."""
    admin = FastAPI(
        title="Headrace, for operators",
        version=version("headrace"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    admin.state = app.state
    admin.include_router(health.router)
    admin.include_router(health.details)
    _include_admin_routes(admin)
    if settings.dashboard_enabled:
        admin.include_router(dashboard.router)
        admin.include_router(auth.of_sessions, dependencies=[Depends(auth.count_apart)])
    error_views.install(admin)
    return Edge(admin, settings=settings.api, log_requests=settings.log.requests, pages=dashboard.PREFIX)


def _include_routes(app: FastAPI, settings: Settings) -> None:
    for router in (
        chat_completions,
        responses,
        messages,
        message_batches,
        completions,
        embeddings,
        rerank,
        models,
        files,
        openai_batches,
        cohere_rerank,
        chat,
        unified_embeddings,
        unified_rerank,
        jobs,
        unified_batches,
        providers,
        unified_models,
        estimate,
        conversations,
        preferences,
        quota,
        auth,
        api_keys,
        members,
        credential_check,
        credentials,
        usage,
        alerts,
        webhook_deliveries,
        webhooks,
        audit,
        generate_text,
        summarize,
        ai,
        inference,
        health,
    ):
        app.include_router(router.router)
    app.include_router(auth.of_sessions)
    if settings.admin_port is None:
        closed = [Depends(require_admin)] if settings.environment == "production" else []
        app.include_router(health.details, dependencies=closed)
        _include_admin_routes(app)
    if settings.dashboard_enabled:
        app.include_router(dashboard.router)


def _include_admin_routes(app: FastAPI) -> None:
    """All below /api/v1/admin."""
    for router in (
        overview.router,
        dead_letters.router,
        usage.operators,
        audit.operators,
        accounts.router,
        users.router,
    ):
        app.include_router(router)


def _measure(scope: Scope, status: int, seconds: float) -> None:
    if scope["method"] == "OPTIONS" or scope["path"].startswith(_UNMEASURED):
        return
    state: dict[str, Any] = scope["state"]
    provider: str | None = state.get("provider")
    error: BrokerError | None = state.get("error")
    label = metrics.status_label(status) if error is None else metrics.status_label(error.status)
    metrics.count_request(provider, label, seconds)
    if error is not None:
        metrics.count_error(provider, error.type)
        # A provider's own limit has the same code, and names the provider.
        if error.code != RateLimited.code or "provider" not in error.details:
            metrics.count_refusal(error.code)
    result: ResultHead | None = state.get("result")
    if result is not None:
        metrics.count_tokens(provider, prompt=result.prompt_tokens, completion=result.completion_tokens)


def _issuers_of(settings: Settings) -> Issuers | None:
    if not settings.accounts.issuers:
        return None
    rules = EgressRules.of(settings.egress, production=settings.environment == "production")
    return Issuers(settings.accounts.issuers, GuardedTransport(rules))


async def _make_first_operator(settings: Settings, engine: AsyncEngine, passwords: Passwords) -> None:
    """Where there is none. No reason not to start: calls are answered without the database as well."""
    if settings.admin_email is None or settings.admin_password is None:
        return
    password = settings.admin_password.get_secret_value()
    try:
        async with asyncio.timeout(_FIRST_OPERATOR_SECONDS):
            done = await make_first_operator(
                engine, passwords, settings.admin_email, password, now=SystemClock().now()
            )
    except (*DATABASE_ERRORS, BrokerError) as exc:
        logger.warning("first operator not made", error=type(exc).__name__)
        return
    if done is FirstOperator.MADE:
        logger.info("first operator made", variable="HEADRACE_ADMIN_EMAIL")
    elif done is FirstOperator.EMAIL_TAKEN:
        logger.warning("first operator not made: make the user one by `headrace users operator`")


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _hear_revocations(link: RedisLink, keys: KeyLookup) -> None:
    """The counter behind the revocation messages, in case one was lost."""
    while True:
        await asyncio.sleep(_KEY_VERSION_SECONDS)
        try:
            keys.on_version(int(await link.execute("GET", keyspace.KEY_VERSION) or 0))
        except (RedisError, OSError) as exc:
            logger.debug("key version not read", error=type(exc).__name__)


async def _look_for_workers(presence: Presence) -> None:
    while True:
        try:
            await presence.look()
        except (RedisError, OSError) as exc:
            logger.debug("presence of workers not read", error=type(exc).__name__)
        await asyncio.sleep(LOOK_SECONDS)


async def _look_at_ledger(reservations: Reservations) -> None:
    while True:
        try:
            await reservations.look()
        except (RedisError, OSError) as exc:
            logger.debug("state of the ledger not read", error=type(exc).__name__)
        await asyncio.sleep(LEDGER_LOOK_SECONDS)


async def _look_at_conditions(conditions: Conditions) -> None:
    while True:
        try:
            await conditions.look()
        except (RedisError, OSError) as exc:
            logger.debug("conditions of providers not read", error=type(exc).__name__)
        await asyncio.sleep(CONDITIONS_LOOK_SECONDS)


async def _look_for_models(via: Broker) -> None:
    """Names that providers list become names that callers may use."""
    while True:
        try:
            if await via.model_lists.look():
                via.catalogue.relist(via.model_lists.models())
        except (RedisError, OSError) as exc:
            logger.debug("model lists not read", error=type(exc).__name__)
        via.catalogue.served = frozenset(via.providers())
        # Sooner while no worker has told anything: both boot at once.
        await asyncio.sleep(MODELS_LOOK_SECONDS if via.model_lists.health else LOOK_SECONDS)


async def _look_for_routes(routing: RoutingWatch) -> None:
    """The routing file, in case its operator changed it."""
    while True:
        await asyncio.sleep(ROUTES_LOOK_SECONDS)
        routing.look()


class ApiServer(Server):
    """Says that it drains before it stops: not ready any more, and open streams get an end.

    SIGTERM ── pre_stop_seconds ──> listener closed ── drain_seconds ──> exit 0
               not ready, still serving,          open requests end, the last
               each connection for one answer     streams by `server_draining`

    A second signal skips the first wait. The admin port answers as long as there is a broker to ask.
    """

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, settings: Settings, admin: Server | None = None
    ) -> None:
        super().__init__(config)
        self._app = app
        self._settings = settings
        self._admin = admin
        self._admin_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._admin is not None and self.started:
            self._admin_task = asyncio.create_task(self._admin.serve(), name="admin-port")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._admin is not None and self._admin_task is not None:
            self._admin.should_exit = True
            await self._admin_task

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        pause = self._settings.api.pre_stop_seconds
        if not self._app.state.draining:
            self._app.state.draining = True
            if self.started and pause:
                # Closed while idle, a kept one may be closed under a request that is on its way.
                self.keep_no_connection()
                asyncio.get_running_loop().call_later(pause, self._stop)
                return
        # Not uvicorn's own, which raises the signal again once it has drained: a drained process exits 0.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self._stop()

    def _stop(self) -> None:
        if self.should_exit:
            return
        self.should_exit = True
        # A second short of the server's own patience, so that it need not cut anybody off.
        within = max(0.1, self._settings.api.drain_seconds - 1)
        broker: Broker | None = getattr(self._app.state, "broker", None)
        if broker is not None:
            broker.replies.drain(within_seconds=within)


class AdminServer(Server):
    """Beside an ApiServer, which hears the signals and ends it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run_api(settings: Settings, redis_url: str, pepper: bytes) -> None:
    """Until SIGTERM or SIGINT; then drains."""
    served, app = create_app(settings, redis_url, pepper)
    config = uvicorn.Config(
        served,
        host=settings.host,
        port=settings.port,
        lifespan="on",
        timeout_graceful_shutdown=int(settings.api.drain_seconds),
        backlog=4096,
        **_every_listener(settings),
    )
    admin = None
    if settings.admin_port is not None:
        admin = AdminServer(
            uvicorn.Config(
                create_admin_app(settings, app),
                host=settings.admin_host,
                port=settings.admin_port,
                lifespan="off",
                timeout_graceful_shutdown=2,
                **_every_listener(settings),
            )
        )
    await ApiServer(config, app, settings, admin).serve()


def _every_listener(settings: Settings) -> dict[str, Any]:
    return {
        "http": bounded_protocol(settings.api),
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": 75,
    }
