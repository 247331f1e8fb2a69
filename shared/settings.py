"""Every setting, read once, grouped by subject, frozen. `.env.example` lists them all.

Well-known names (PORT, REDIS_URL, OPENAI_API_KEY, ...) are read as they are; the
rest is `HEADRACE_<GROUP>__<FIELD>`, such as HEADRACE_QUEUE__LEASE_IDLE_SECONDS.
The environment wins over `.env`.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.domain.rate import Rate, seconds_of


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _read_duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    seconds = seconds_of(value)
    if seconds is None:
        raise ValueError("must be a duration above 0, such as 15m, 24h or 900 (seconds)")
    return seconds


_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")

SAMPLERS = (
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
)
_SHARE = re.compile(r"0(\.[0-9]*)?|1(\.0*)?|\.[0-9]+")

Duration = Annotated[PositiveFloat, BeforeValidator(_read_duration)]
"""Seconds, written `15m`, `24h` or as a bare number."""


def _check_rate(text: str) -> str:
    Rate.of(text)
    return text


RateText = Annotated[str, AfterValidator(_check_rate)]
"""See shared.domain.rate."""


class IssuerSettings(_Group):
    """Somebody else's access tokens (JWT): who may sign them, and what their holders are here."""

    issuer: str
    """The `iss` they carry."""
    jwks_url: str
    """Where its public keys are; fetched over HTTPS from public addresses only, and cached."""
    audience: str
    """The `aud` they must carry."""
    account: str | None = None
    """The account of all of them. Default: the claim named by `account_claim`."""
    account_claim: str | None = None
    role: Literal["admin", "member", "viewer", "service"] = "member"
    role_claim: str | None = None
    """Claim whose value is a role here; one that is missing or unknown falls back to `role`."""
    algorithms: tuple[Literal["RS256", "ES256", "EdDSA", "PS256"], ...] = ("RS256", "ES256")


class ApiSettings(_Group):
    max_body_bytes: PositiveInt = 10 * 1024 * 1024
    """Largest request body; one byte more answers 413."""
    max_header_bytes: PositiveInt = 16 * 1024
    """All request headers together; more answers 431."""
    max_headers: PositiveInt = 100
    """Number of request headers."""
    request_timeout_seconds: PositiveFloat = 600.0
    """How long a caller waits for a job before 504; the job's deadline."""
    stream_hold_seconds: PositiveFloat = 12.0
    """How long a stream waits for its first event before it commits to status 200."""
    heartbeat_seconds: PositiveFloat = 15.0
    """Silence on an open stream after which a comment is sent."""
    disconnect_grace_seconds: PositiveFloat = 5.0
    """How long after its caller left a job keeps running, so that a reconnect can resume."""
    slow_reader_seconds: PositiveFloat = 60.0
    """How long a reader may accept no byte before its connection is closed."""
    pre_stop_seconds: NonNegativeFloat = 0.0
    """How long after SIGTERM a process that is not ready any more still takes requests: longer than
    whatever balances the load needs to see it (on Kubernetes, 5 to 10)."""
    drain_seconds: PositiveFloat = 15.0
    """How long open requests may go on after that."""
    responses_retain_seconds: PositiveFloat = 86_400.0
    """How long a response of /v1/responses can be read and continued, unless `store` was false."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose X-Forwarded-For says who asks, as a JSON list."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names answered to; empty means any well-formed one."""
    docs: Literal["auto", "on", "off", "public"] = "auto"
    """Whether /docs, /redoc and /openapi.json are served. `auto`: unless in production, where only
    `public` opens them."""
    hsts_seconds: NonNegativeInt = 0
    """For how long browsers are told to come back by HTTPS alone; 0 tells them nothing."""


class QueueSettings(_Group):
    shards: PositiveInt = 1
    """Number of hash tags: 1 on a single server, 16 on a cluster. Never change it with jobs queued."""
    heartbeat_seconds: PositiveFloat = 5.0
    """Every how long a worker renews its leases and says what it serves; a quarter of the idle time."""
    lease_idle_seconds: PositiveFloat = 20.0
    """How long a worker may be silent before its jobs go to another; at least three heartbeats."""
    sweep_seconds: PositiveFloat = 1.0
    """Every how long (with jitter) a worker with free slots looks for lapsed leases."""
    block_seconds: PositiveFloat = 1.0
    """Longest blocking read of a worker: how fast it notices a stop."""
    max_deliveries: PositiveInt = 3
    """Times a job may be handed to a worker, the first included, before it is dead-lettered."""
    max_attempts: PositiveInt = 3
    """Calls to providers, the first included, before a retryable failure is final."""
    retry_base_seconds: PositiveFloat = 0.25
    retry_cap_seconds: PositiveFloat = 20.0
    """Full jitter: a retry waits a random time up to min(cap, base * 2**attempt)."""
    max_lane_entries: PositiveInt = 100_000
    """Jobs in one lane (waiting, ready and in flight) above which new ones answer 503."""
    ready_window: PositiveInt = 32
    """Jobs of a lane, over all shards, that lie ready for workers; what comes on top waits in its backlog
    and is taken from there in turns, tenant by tenant."""
    tenant_max_waiting: PositiveInt = 50_000
    """Jobs of one account in one backlog above which its new ones answer 429."""
    tenant_max_in_flight: NonNegativeInt = 0
    """Jobs of one account that may be ready or running in one lane of a provider; 0 means any number."""
    lane_ageing_seconds: PositiveFloat = 10.0
    """How long a lane may be passed over for higher ones before a worker takes a few jobs from it."""
    retry_budget_percent: PositiveInt = 20
    """Retries of the whole fleet at a provider, as a share of the calls made there."""
    retry_reserve: PositiveInt = 10
    """Retries at a provider allowed in any ten seconds besides."""
    max_wait_seconds: PositiveFloat = 60.0
    """How long a job waits for a provider that takes no calls, as it limits their rate or its breaker is
    open. Then the job moves on, or fails. Jobs of the batch lane wait until their deadline."""
    dead_retain_seconds: PositiveFloat = 604_800.0
    """How long a job that was set aside can be read and run again."""
    max_memory_percent: Annotated[int, Field(ge=1, le=100)] = 70
    """Share of Redis' `maxmemory` above which new jobs answer 503, so that those accepted can end."""
    unserved_seconds: PositiveFloat = 60.0
    """How long no worker may have served a provider before its requests answer 503."""
    retain_seconds: PositiveFloat = 600.0
    """How long a finished job, its result and its event log can be read again."""
    recheck_seconds: PositiveFloat = 2.0
    """Every how long a waiting caller's job is looked up, in case a hint was lost."""
    api_timeout_seconds: PositiveFloat = 1.0
    """How long the api waits for a reply of Redis."""
    worker_timeout_seconds: PositiveFloat = 5.0
    """How long a worker waits for a reply of Redis."""
    inline_result_bytes: PositiveInt = 65_536
    """Results up to this size travel in the published message, larger ones are fetched."""

    @model_validator(mode="after")
    def _leases_outlive_heartbeats(self) -> Self:
        """One late heartbeat must not cost a lease: its job would be run, and paid for, twice."""
        if self.lease_idle_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                "HEADRACE_QUEUE__LEASE_IDLE_SECONDS must be at least three times "
                "HEADRACE_QUEUE__HEARTBEAT_SECONDS"
            )
        return self

    @property
    def shard_window(self) -> int:
        """Of `ready_window`, what falls to each shard."""
        return max(2, -(-self.ready_window // self.shards))

    @property
    def shard_cap(self) -> int:
        """Of `tenant_max_in_flight`, what falls to each shard."""
        return -(-self.tenant_max_in_flight // self.shards)


class JobSettings(_Group):
    """Of jobs that outlive their connection: see docs/jobs.md."""

    deadline_seconds: PositiveFloat = 86_400.0
    """How long such a job may take, waiting included; a caller may ask for less."""
    retain_seconds: PositiveFloat = 86_400.0
    """How long its result is kept."""
    retain_days: NonNegativeInt = 30
    """How long after that it is known that there was such a job; 0 means for ever."""
    reconcile_seconds: PositiveFloat = 5.0
    """Every how long the scheduler looks for accepted jobs that Redis lost."""
    lost_after_seconds: PositiveFloat = 15.0
    """How old a job is at least when it is looked for."""
    retry_window_seconds: NonNegativeFloat = 120.0
    """How long after a request an official client that says it tries again gets the job of its first
    try instead of another; 0 means never."""


class BatchSettings(_Group):
    """Of batches: see docs/batches.md."""

    max_lines: PositiveInt = 50_000
    """Requests in one batch."""
    max_inline_bytes: PositiveInt = 32 * 1024 * 1024
    """Size of the body that creates a batch, where its requests are in it."""
    window: PositiveInt = 256
    """Lines of one batch that are queued at once; the others wait in the database."""
    provider_window: PositiveInt = 1_024
    """Lines of all batches that are queued at once at one provider."""
    deadline_seconds: PositiveFloat = 86_400.0
    """How long a batch may take; what has not run by then is told as expired."""
    look_seconds: PositiveFloat = 0.5
    """Every how long the scheduler looks for batches to go on with."""
    cancel_seconds: PositiveFloat = 60.0
    """How long lines that run when their batch is cancelled are waited for."""
    provider_poll_seconds: PositiveFloat = 60.0
    """Every how long a provider is asked after a batch that was handed over to it."""
    provider_transfer_seconds: PositiveFloat = 1_800.0
    """The longest that handing over the requests of a batch, or fetching its results, may take."""
    provider_cancel_seconds: PositiveFloat = 900.0
    """How long a provider is waited for to stop a batch that was cancelled, or whose time is over."""
    results_retain_days: NonNegativeInt = 30
    """How long output and error files are kept unless the batch says otherwise; 0 means for ever."""


class WorkerSettings(_Group):
    slots: PositiveInt = 256
    """Jobs one worker process runs at once."""
    drain_seconds: PositiveFloat = 30.0
    """How long running jobs may go on after SIGTERM before they are handed back."""
    batch_slots_percent: Annotated[int, Field(ge=1, le=100)] = 75
    """Of these, what jobs of the batch lane may take, so that others find a free one."""
    pause_base_seconds: PositiveFloat = 1.0
    pause_cap_seconds: PositiveFloat = 30.0
    """A provider that limits our rate and does not say for how long is left alone for a random time up
    to min(cap, base * 2**refusals in a row)."""
    batch_reserve_percent: Annotated[int, Field(ge=0, le=90)] = 20
    """Of each configured limit of a provider account, what work of the batch lane leaves to the others."""


class ProviderSettings(_Group):
    connect_seconds: PositiveFloat = 5.0
    first_byte_seconds: PositiveFloat = 60.0
    """Longest wait for the first byte of the answer. A non-streamed answer gets the total instead."""
    idle_seconds: PositiveFloat = 30.0
    """Longest silence between two reads of a streamed answer."""
    total_seconds: PositiveFloat = 600.0
    hold_back_seconds: NonNegativeFloat = 0.0
    """How long the first words of a stream are held back, so that a provider that fails within that
    time can be replaced. What comes before the first word always is."""
    max_answer_bytes: PositiveInt = 16 * 1024 * 1024
    max_header_bytes: PositiveInt = 64 * 1024
    connections: PositiveInt = 512
    """Open connections of one worker process to one provider origin."""
    keepalive_seconds: PositiveFloat = 60.0
    """How long an idle connection is kept; short enough that DNS changes are seen."""
    model_list_seconds: PositiveFloat = 3600.0
    """Every how long a provider is asked which models it has; sooner while it does not answer."""
    plain_http_hosts: tuple[str, ...] = ()
    """Hosts at which providers may be called without TLS in production too; this machine always may."""


class BreakerSettings(_Group):
    fail_max: PositiveInt = 5
    """Failures of a provider in a row after which nothing is sent to it for a while."""
    reset_seconds: PositiveFloat = 30.0
    """How long nothing is sent, before one call probes whether the provider is back."""
    window_seconds: PositiveFloat = 30.0
    """Over which time the share of failures is looked at."""
    window_calls: PositiveInt = 20
    """Calls within the window below which their share of failures says nothing."""
    window_failure_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of failures within the window that has the same effect as failures in a row."""


class AuthSettings(_Group):
    key_cache_seconds: PositiveFloat = 60.0
    """How long a process trusts a key it looked up, while revocations are heard."""
    stale_seconds: PositiveFloat = 300.0
    """How long a known key stays good while Redis and the database are both away."""
    redis_cache_seconds: PositiveInt = 600
    """How long Redis keeps a looked-up key."""


class AccountSettings(_Group):
    registration: bool = True
    """Whether anybody may register. Each who does gets an account of the standard tier."""
    refresh_seconds: PositiveFloat = 2_592_000.0
    """How long a login lasts that is renewed at least this often."""
    refresh_grace_seconds: NonNegativeFloat = 10.0
    """How long a client that repeats its refresh gets the same answer again; later it counts as theft."""
    password_slots: PositiveInt = 2
    """Password hashes computed at once; each takes 19 MiB."""
    password_queue: PositiveInt = 32
    """Logins that may wait for one of these; more answer 429."""
    issuers: tuple[IssuerSettings, ...] = ()
    """Others whose access tokens are accepted, as a JSON list."""


class LimitSettings(_Group):
    """Rates are `<requests>/<window>`, such as 100/15m: that many in any window of that length."""

    paid: RateText = "1000/1h"
    """Of each key or session of an account of the paid tier."""
    inference: RateText = "60/1m"
    """Of the older routes under /v1/inference besides, for tiers that have a rate."""
    auth: RateText = "10/1m"
    """Of one address at the routes under /api/v1/auth."""
    default_completion_tokens: PositiveInt = 4096
    """What a request that does not limit its answer is assumed to take, if its model's own limit is not
    known or higher: budgets are reserved by it."""
    unpriced_models: Literal["allow", "refuse"] = "allow"
    """What happens to a request for a model without a price, of a caller with a budget of money: `allow`
    counts it as 0. Models of self-hosted providers and of configured endpoints may be asked for anyway."""
    without_redis_key: Literal["allow", "refuse"] = "allow"
    """What happens to a request whose limits cannot be counted, as neither Redis nor, after Redis lost
    its counts, the database can be asked: by the scope of its limits."""
    without_redis_user: Literal["allow", "refuse"] = "allow"
    without_redis_account: Literal["allow", "refuse"] = "refuse"
    without_redis_address: Literal["allow", "refuse"] = "refuse"
    """At the routes under /api/v1/auth. With `allow`, each process counts for itself meanwhile."""
    hold_seconds: PositiveFloat = 60.0
    """How long after its deadline a job's reservation is kept, if nobody said how the job ended."""


def _check_origin(text: str) -> str:
    if text != "*" and not _ORIGIN.fullmatch(text):
        raise ValueError("must be origins such as https://app.example, without a path, or *")
    return text


class CorsSettings(_Group):
    """Web pages of other origins whose scripts may call the API. Empty: none, and no CORS headers."""

    origins: tuple[Annotated[str, AfterValidator(_check_origin)], ...] = ()
    """Such as https://app.example; `*` for any."""
    methods: tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...] = (
        *("GET", "POST", "PUT", "PATCH", "DELETE"),
    )
    credentials: bool = False
    """Whether browsers may add cookies and the like. The API reads none: keys need no such leave."""
    max_age_seconds: NonNegativeInt = 600
    """How long a browser may remember what a preflight told it."""


class EgressSettings(_Group):
    """For requests to URLs that somebody else chose: see docs/security.md."""

    private_hosts: tuple[str, ...] = ()
    """Hosts, as `host` or `host:port`, that may have a private address and any port; outside production
    also plain HTTP."""


class WebhookSettings(_Group):
    timeout_seconds: PositiveFloat = 20.0
    """How long a receiver may take to answer."""
    sends_at_once: PositiveInt = 64
    """Of one scheduler; of these a quarter to one account, and an eighth to one endpoint or URL."""
    rotation_grace_seconds: NonNegativeFloat = 86_400.0
    """How long a rotated secret signs besides the new one, where the caller does not say."""


class StorageSettings(_Group):
    """Where the content of files is, and how much there may be: see docs/files.md."""

    kind: Literal["folder", "s3"] = "folder"
    """A folder only serves processes that all see it: with several hosts, take `s3`."""
    folder: Path | None = None
    """Default: `files` in the data folder."""
    s3_endpoint: Annotated[str, Field(pattern=r"^https?://[^/?#@]+/?$")] | None = None
    """Such as https://s3.eu-central-1.amazonaws.com: any S3-compatible store, asked in path style."""
    s3_bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{3,255}$")] | None = None
    s3_region: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "us-east-1"
    s3_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{0,200}$")] = "headrace/"
    """Before the name of every object. Two brokers that share a bucket must not share this."""
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    max_file_bytes: PositiveInt = 512 * 1024 * 1024
    """Largest file; one byte more answers 413."""
    max_batch_input_bytes: PositiveInt = 200 * 1024 * 1024
    """The same for files of the purpose `batch`."""
    batch_retain_seconds: PositiveInt = 2_592_000
    """How long files of the purpose `batch` are kept whose upload does not say; others are for ever."""
    account_max_bytes: NonNegativeInt = 10 * 1024 * 1024 * 1024
    """All files of one account together; more answers 413. 0 means any number, here and below."""
    account_max_files: NonNegativeInt = 10_000

    @model_validator(mode="after")
    def _a_store_is_named_whole(self) -> Self:
        named = (self.s3_endpoint, self.s3_bucket, self.s3_access_key_id, self.s3_secret_access_key)
        if self.kind == "s3" and None in named:
            raise ValueError(
                "HEADRACE_STORAGE__KIND=s3 takes HEADRACE_STORAGE__S3_ENDPOINT, __S3_BUCKET, "
                "__S3_ACCESS_KEY_ID and __S3_SECRET_ACCESS_KEY"
            )
        return self


class TraceSettings(_Group):
    """Beside the standard variables OTEL_*, which turn traces on: see docs/operations/tracing.md."""

    incoming: Literal["continue", "ignore"] = "continue"
    """Whether the trace that a caller's `traceparent` names goes on here, or a new one begins."""
    pass_on: bool = False
    """Whether providers are told the trace, by a `traceparent` of their own."""
    flush_seconds: PositiveFloat = 2.0
    """How long a process that has drained may still take to send its last spans."""


class LogSettings(_Group):
    level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, JSON elsewhere."""
    requests: bool = True
    """One line a request."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_",
        env_nested_delimiter="__",
        env_file=".env",
        env_file_encoding="utf-8",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
    )

    environment: Literal["development", "production", "test"] = Field(
        default="development",
        validation_alias=AliasChoices("HEADRACE_ENVIRONMENT", "APP_ENV", "NODE_ENV"),
    )
    host: str = Field(default="127.0.0.1", validation_alias=AliasChoices("HEADRACE_HOST", "HOST"))
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=8000, validation_alias=AliasChoices("HEADRACE_PORT", "PORT")
    )
    region: Annotated[str, Field(pattern=r"^([a-z0-9-]{1,32})?$")] = ""
    """Where this broker is, where there are several: in logs, traces, metrics and /health. Lower-case
    letters, digits and hyphens, 32 at most."""
    data_dir: Path = Path(".headrace")
    """Where the embedded default keeps its Redis files, its SQLite database and its secrets."""
    redis_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("HEADRACE_REDIS_URL", "REDIS_URL")
    )
    """One server, a cluster (redis-cluster://) or sentinels (redis-sentinel://): see docs/redis.md."""
    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("HEADRACE_DATABASE_URL", "DATABASE_URL")
    )
    key_pepper: SecretStr | None = None
    """Secret of at least 32 characters under which API keys are digested, and from which the secrets of
    webhooks are derived. Changing it voids all of them."""
    admin_token: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Secret of at least 32 characters for the routes under /api/v1/admin; without it there are none."""
    admin_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """A listener of its own for /health, /metrics and /api/v1/admin, which the other one then has not."""
    admin_host: str = "127.0.0.1"
    """Where it listens. Its metrics are open to whoever reaches it."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """Of a worker or scheduler: where it listens for /metrics, /health/live and /health/ready.
    0 is nowhere; `headrace up` has one of each on one host, so there it counts for none."""
    metrics_host: str = "127.0.0.1"
    """Where it listens. Its metrics are open to whoever reaches it."""
    jwt_secret: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        default=None, validation_alias=AliasChoices("HEADRACE_JWT_SECRET", "JWT_SECRET")
    )
    """Secret of at least 32 characters that signs access tokens; without it nobody can log in."""
    jwt_secret_before: Annotated[SecretStr, Field(min_length=32)] | None = None
    """The one before, whose tokens are still good: set it for as long as they live when you change it."""
    jwt_expiry: Duration = Field(
        default=900.0, validation_alias=AliasChoices("HEADRACE_JWT_EXPIRY", "JWT_EXPIRY")
    )
    """How long an access token is good, such as 15m or 24h."""
    master_key: SecretStr | None = None
    """Opens the accounts' own provider credentials; for workers only. Made by: headrace master-key new"""
    master_key_before: SecretStr | None = None
    """The one before, while what it sealed is not sealed anew."""
    master_public_key: str | None = None
    """Seals these credentials, and cannot open them: the half of the master key that the api needs."""
    admin_email: str | None = None
    """The first operator, made at the start of `headrace up` or the api where there is none yet."""
    admin_password: SecretStr | None = None
    rate_limit_window: Duration = Field(
        default=900.0, validation_alias=AliasChoices("HEADRACE_RATE_LIMIT_WINDOW", "RATE_LIMIT_WINDOW")
    )
    rate_limit_max: PositiveInt = Field(
        default=100, validation_alias=AliasChoices("HEADRACE_RATE_LIMIT_MAX", "RATE_LIMIT_MAX")
    )
    """Requests in any such window by each key or session of an account of the standard tier."""
    ai_quota_daily_limit: NonNegativeInt = Field(default=1000, validation_alias="AI_QUOTA_DAILY_LIMIT")
    """Requests a day of an account of the standard tier; 0 means any number, here and below."""
    ai_quota_monthly_limit: NonNegativeInt = Field(default=10_000, validation_alias="AI_QUOTA_MONTHLY_LIMIT")
    ai_quota_monthly_spend_limit: Annotated[Decimal, Field(ge=0, decimal_places=6)] = Field(
        default=Decimal("10.00"), validation_alias="AI_QUOTA_MONTHLY_SPEND_LIMIT"
    )
    """In dollars."""
    billing_markup_percent: Annotated[int, Field(ge=-100, le=10_000)] = 0
    """What is billed on top of what the provider charges. Calls on an account's own credential bill 0."""
    usage_retain_days: NonNegativeInt = 0
    """How long rows of the ledger are kept; 0 means for ever."""
    audit_retain_days: NonNegativeInt = 365
    """How long administrative acts are kept; 0 means for ever."""
    conversation_retain_days: NonNegativeInt = 90
    """How long after its last message a conversation is kept; 0 means for ever."""
    webhook_retain_days: NonNegativeInt = 30
    """How long webhooks are kept once they were delivered or given up; 0 means for ever."""
    providers_file: Path | None = None
    """TOML file of custom OpenAI-compatible endpoints and base URLs."""
    catalogue_file: Path | None = None
    """TOML file of models and prices to add to the catalogue or to replace there, and of aliases."""
    routing_file: Path | None = None
    """TOML file of routes over several models, and of fallbacks; read again whenever it changes."""
    default_provider: str = Field(
        default="openai", validation_alias=AliasChoices("HEADRACE_DEFAULT_PROVIDER", "AI_PROVIDER")
    )
    """Where a request that names neither provider nor a known model goes, if that provider is self-hosted."""
    faultpoints: str = Field(default="", validation_alias=AliasChoices("HEADRACE_FAULTPOINTS", "FAULTPOINTS"))
    """Test hook: named points at which the process kills itself. Refused in production."""
    metrics_enabled: bool = Field(
        default=True, validation_alias=AliasChoices("HEADRACE_METRICS_ENABLED", "ENABLE_METRICS")
    )
    """Whether /metrics is served."""
    dashboard_enabled: bool = True
    """Whether /dashboard/ is served, on the admin port too where there is one."""

    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    openai_model: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")] = Field(
        default="gpt-3.5-turbo", validation_alias="OPENAI_MODEL"
    )
    """The model of requests that may leave it out, where they go to OpenAI."""
    openai_max_tokens: PositiveInt = Field(default=2000, validation_alias="OPENAI_MAX_TOKENS")
    """Longest answer of the same requests, where they do not say."""
    anthropic_api_key: SecretStr | None = Field(default=None, validation_alias="ANTHROPIC_API_KEY")
    anthropic_base_url: str | None = Field(default=None, validation_alias="ANTHROPIC_BASE_URL")
    vllm_api_key: SecretStr | None = Field(default=None, validation_alias="VLLM_API_KEY")
    vllm_base_url: str | None = Field(default=None, validation_alias="VLLM_BASE_URL")

    deepseek_api_key: SecretStr | None = Field(default=None, validation_alias="DEEPSEEK_API_KEY")
    deepseek_base_url: str | None = Field(default=None, validation_alias="DEEPSEEK_BASE_URL")
    xai_api_key: SecretStr | None = Field(default=None, validation_alias="XAI_API_KEY")
    xai_base_url: str | None = Field(default=None, validation_alias="XAI_BASE_URL")
    openrouter_api_key: SecretStr | None = Field(default=None, validation_alias="OPENROUTER_API_KEY")
    openrouter_base_url: str | None = Field(default=None, validation_alias="OPENROUTER_BASE_URL")
    litellm_api_key: SecretStr | None = Field(default=None, validation_alias="LITELLM_API_KEY")
    litellm_base_url: str | None = Field(default=None, validation_alias="LITELLM_BASE_URL")
    nvidia_nim_api_key: SecretStr | None = Field(default=None, validation_alias="NVIDIA_NIM_API_KEY")
    nvidia_nim_base_url: str | None = Field(default=None, validation_alias="NVIDIA_NIM_BASE_URL")
    perplexity_api_key: SecretStr | None = Field(default=None, validation_alias="PERPLEXITY_API_KEY")
    perplexity_base_url: str | None = Field(default=None, validation_alias="PERPLEXITY_BASE_URL")
    huggingface_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("HF_TOKEN", "HUGGINGFACE_API_KEY")
    )
    huggingface_base_url: str | None = Field(default=None, validation_alias="HUGGINGFACE_BASE_URL")

    ai_gateway_request_timeout: PositiveInt | None = Field(
        default=None, validation_alias="AI_GATEWAY_REQUEST_TIMEOUT"
    )
    """Milliseconds: HEADRACE_API__REQUEST_TIMEOUT_SECONDS by another name, which wins over this one."""
    ai_gateway_max_retries: NonNegativeInt | None = Field(
        default=None, validation_alias="AI_GATEWAY_MAX_RETRIES"
    )
    """Calls after the first: one less than HEADRACE_QUEUE__MAX_ATTEMPTS, which wins over this one."""

    otel_exporter_otlp_endpoint: str | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    """The collector's address, to which /v1/traces is added. This one or the next turns traces on."""
    otel_exporter_otlp_traces_endpoint: str | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    )
    """The same for traces alone, as it is."""
    otel_exporter_otlp_headers: SecretStr | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_HEADERS"
    )
    """What the collector asks for, as `name=value,name=value`, percent-encoded."""
    otel_exporter_otlp_traces_headers: SecretStr | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    )
    otel_exporter_otlp_protocol: str = Field(
        default="http/protobuf", validation_alias="OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    otel_exporter_otlp_traces_protocol: str | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
    )
    otel_traces_exporter: str = Field(default="otlp", validation_alias="OTEL_TRACES_EXPORTER")
    """`none` turns traces off."""
    otel_traces_sampler: str = Field(default="parentbased_always_on", validation_alias="OTEL_TRACES_SAMPLER")
    otel_traces_sampler_arg: str = Field(default="1.0", validation_alias="OTEL_TRACES_SAMPLER_ARG")
    """The share of traces that the samplers with `traceidratio` record."""
    otel_service_name: str | None = Field(default=None, validation_alias="OTEL_SERVICE_NAME")
    """Default: headrace-api, headrace-worker, headrace-scheduler."""
    otel_resource_attributes: str | None = Field(default=None, validation_alias="OTEL_RESOURCE_ATTRIBUTES")
    otel_sdk_disabled: bool = Field(default=False, validation_alias="OTEL_SDK_DISABLED")
    """Turns traces off, whatever the others say."""

    api: ApiSettings = ApiSettings()
    queue: QueueSettings = QueueSettings()
    jobs: JobSettings = JobSettings()
    batches: BatchSettings = BatchSettings()
    worker: WorkerSettings = WorkerSettings()
    provider: ProviderSettings = ProviderSettings()
    breaker: BreakerSettings = BreakerSettings()
    auth: AuthSettings = AuthSettings()
    accounts: AccountSettings = AccountSettings()
    limits: LimitSettings = LimitSettings()
    cors: CorsSettings = CorsSettings()
    egress: EgressSettings = EgressSettings()
    webhooks: WebhookSettings = WebhookSettings()

    storage: StorageSettings = StorageSettings()
    traces: TraceSettings = TraceSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _other_names_of_grouped_settings(self) -> Self:
        timeout_ms, retries = self.ai_gateway_request_timeout, self.ai_gateway_max_retries
        # A frozen model has no other way to have two names for one of its values.
        if timeout_ms is not None and "request_timeout_seconds" not in self.api.model_fields_set:
            update = {"request_timeout_seconds": timeout_ms / 1000}
            self.__dict__["api"] = self.api.model_copy(update=update)
        if retries is not None and "max_attempts" not in self.queue.model_fields_set:
            self.__dict__["queue"] = self.queue.model_copy(update={"max_attempts": retries + 1})
        return self

    @model_validator(mode="after")
    def _traces_can_be_sent(self) -> Self:
        """Only where they are on: these variables may be there for other programs."""
        url = self.traces_url
        if url is None:
            return self
        if not url.startswith(("http://", "https://")):
            raise ValueError("OTEL_EXPORTER_OTLP_ENDPOINT must be an http:// or https:// URL")
        protocol = self.otel_exporter_otlp_traces_protocol or self.otel_exporter_otlp_protocol
        if protocol != "http/protobuf" or self.otel_traces_exporter != "otlp":
            raise ValueError(
                "traces are sent by OTLP as http/protobuf alone: OTEL_EXPORTER_OTLP_PROTOCOL and "
                "OTEL_TRACES_EXPORTER ask for something else, which OTEL_TRACES_EXPORTER=none turns off"
            )
        if self.otel_traces_sampler not in SAMPLERS:
            raise ValueError(f"OTEL_TRACES_SAMPLER must be one of {', '.join(SAMPLERS)}")
        if not _SHARE.fullmatch(self.otel_traces_sampler_arg):
            raise ValueError("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1")
        return self

    @property
    def traces_url(self) -> str | None:
        """Where traces are sent; None where they are off."""
        if self.otel_sdk_disabled or self.otel_traces_exporter == "none":
            return None
        base = self.otel_exporter_otlp_endpoint
        common = None if base is None else f"{base.rstrip('/')}/v1/traces"
        return self.otel_exporter_otlp_traces_endpoint or common

    @property
    def serves_docs(self) -> bool:
        if self.api.docs == "auto":
            return self.environment != "production"
        return self.api.docs != "off"

    def provider_key(self, variable: str) -> SecretStr | None:
        """The provider's key that this variable holds. A variable without a setting is read as it is."""
        found = self._by_variable(variable)
        return found if found is None or isinstance(found, SecretStr) else SecretStr(found)

    def provider_base_url(self, variable: str) -> str | None:
        found = self._by_variable(variable)
        return found.get_secret_value() if isinstance(found, SecretStr) else found

    def _by_variable(self, variable: str) -> str | SecretStr | None:
        for name, field in type(self).model_fields.items():
            alias = field.validation_alias
            names = alias.choices if isinstance(alias, AliasChoices) else [alias]
            if variable in names:
                found: str | SecretStr | None = getattr(self, name)
                return found
        return environment_variable(variable) if variable else None


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and `.env`; raises pydantic.ValidationError that names the variable."""
    return Settings(**overrides)


def environment_variable(name: str) -> str | None:
    """A variable that a configuration file names, from the environment or `.env`."""
    return os.environ.get(name) or dotenv_values(".env").get(name)


def variables_set() -> dict[str, str]:
    """By name, where each variable that is not empty was set: `environment` or `.env`; the first wins."""
    found = {name: ".env" for name, value in dotenv_values(".env").items() if value}
    return found | {name: "environment" for name, value in os.environ.items() if value}


def inherited_environment() -> dict[str, str]:
    """The environment a child process starts from; the supervisor adds what it decided."""
    return dict(os.environ)
