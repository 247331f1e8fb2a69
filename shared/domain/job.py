"""A job: one unit of inference, the same noun from HTTP request to ledger row.

    queued ──> running ──> succeeded | failed | cancelled | expired
      │  ^        │
      │  └────────┘ reclaimed, retried later, handed back
      └──> cancelled | expired | failed (dead-lettered)

The scripts in shared/queue/scripts are the only writers of `state`; they follow
TRANSITIONS, and a state machine test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import orjson

from shared.domain.trace import TraceOrigin
from shared.ids import AccountId, ApiKeyId, JobId, RequestId, UserId

ENVELOPE_VERSION: Final = 2
OLDEST_ENVELOPE: Final = 1
"""The version before: its jobs are read, and one that it can read is still written in its form."""


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        # RUNNING to RUNNING: reclaimed from a worker that stopped renewing its lease.
        {
            JobState.RUNNING,
            JobState.QUEUED,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.EXPIRED,
        }
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.EXPIRED: frozenset(),
}
TERMINAL: Final = frozenset(state for state, onward in TRANSITIONS.items() if not onward)


class JobKind(StrEnum):
    """What is asked, and in whose form: body, answer and stream events of a job are all in it.

    A worker translates where the provider speaks another form, so that falling back to
    another provider changes nothing of what the caller reads.
    """

    CHAT = "chat"
    """OpenAI chat completions."""
    MESSAGES = "messages"
    """Anthropic messages."""
    RESPONSES = "responses"
    """OpenAI responses."""
    COMPLETION = "completion"
    """OpenAI's older completions: a prompt and its continuation."""
    EMBEDDINGS = "embeddings"
    """OpenAI embeddings."""
    RERANK = "rerank"
    """`{model, query, documents: [str], top_n}` to `{id, model, results, usage}`, best first;
    a result is `{index, relevance_score}`, the score within 0 and 1.
    """
    SUMMARIZATION = "summarization"
    """`{model, text, max_length, min_length}` to `{id, model, summary}`."""
    COUNT_TOKENS = "count_tokens"
    """Anthropic messages to `{input_tokens}`: nothing is generated, nothing charged."""
    CREDENTIAL_CHECK = "credential_check"
    """`{sealed}`, a key for the workers to open, to `{valid, has_access, models}`: nothing is charged."""
    PROVIDER_BATCH = "provider_batch"
    """A step with a provider's own batch API (shared/providers/batch_apis), told as its JSON; nothing is
    charged: the requests in the batch are, each by itself.
    """


class Lane(StrEnum):
    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class Surface(StrEnum):
    """The dialect the caller spoke; the ledger and the replay need it, the worker does not."""

    OPENAI = "openai"
    UNIFIED = "unified"
    ANTHROPIC = "anthropic"
    RESPONSES = "responses"
    COHERE = "cohere"
    INFERENCE = "inference"
    """The older routes under /v1/inference: their streams say `{"text": ...}`."""


DEFAULT_CREDENTIAL: Final = "default"
"""The broker's own at a provider."""
OWN_ROW: Final = "job"
"""Of a job that is a row of its own."""
CANDIDATE_CREDENTIAL: Final = "candidate"
"""One that is stored nowhere, and is being tried."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a job may run. `credential` is an id, never the secret; only workers resolve it."""

    provider: str
    model: str
    credential: str = DEFAULT_CREDENTIAL


class FallbackOn(StrEnum):
    """Failures that are the request's own, yet may be cured by another target of the plan."""

    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Job:
    """The envelope that travels through the queue.

    `plan`: where it may run, best first; `hop`: how many of these it has left behind. The hop
    is no part of the envelope: the queue counts it (script `move`).
    `fallback_on`: failures beyond those of a provider that move it on.
    `body`: JSON in the form of `kind`, gateway-only fields already gone, `model` set to
    that of `plan[0]`. It is opaque bytes to the queue.
    `budget_ms`: how long the caller waits; the deadline is Redis TIME at enqueue plus this.
    `held`: something of its account's limits is reserved for it. `user`: whose key or session asked.
    `row`: where the database keeps what becomes of it: OWN_ROW, or `<batch>:<line>`; None of a job that
    lives no longer than its connection. `trace`: where in a trace it comes from, if anybody traces it.
    """

    id: JobId
    kind: JobKind
    lane: Lane
    surface: Surface
    account: AccountId
    api_key: ApiKeyId
    request_id: RequestId
    plan: tuple[Target, ...]
    stream: bool
    include_usage: bool
    budget_ms: int
    body: bytes
    fallback_on: frozenset[FallbackOn] = frozenset()
    hop: int = 0
    held: bool = False
    user: UserId | None = None
    row: str | None = None
    trace: TraceOrigin | None = None

    @property
    def target(self) -> Target:
        return self.plan[self.hop]

    @property
    def next_target(self) -> Target | None:
        """Where it may go when its target fails."""
        onward = self.hop + 1
        return self.plan[onward] if onward < len(self.plan) else None

    @property
    def version(self) -> int:
        """The oldest envelope that says all of it, so that workers of the last release can run it."""
        return OLDEST_ENVELOPE if len(self.plan) == 1 and not self.fallback_on else ENVELOPE_VERSION

    def at(self, hop: int) -> Job:
        """The same job at another target of its plan, whose model its body then names."""
        if hop == self.hop:
            return self
        moved = replace(self, hop=hop)
        if moved.target.model == self.target.model or not self.body:
            return moved
        document = orjson.loads(self.body)
        document["model"] = moved.target.model
        return replace(moved, body=orjson.dumps(document))

    def header(self) -> bytes:
        """Everything but the body, as JSON: what the worker and the ledger read."""
        more: dict[str, Any] = {"on": sorted(self.fallback_on)} if self.fallback_on else {}
        if self.held:
            more["held"] = True
        if self.user is not None:
            more["user"] = self.user
        if self.row is not None:
            more["row"] = self.row
        if self.trace is not None:
            more["trace"] = self.trace.to_fields()
        return orjson.dumps(
            {
                "v": self.version,
                "id": self.id,
                "kind": self.kind,
                "lane": self.lane,
                "surface": self.surface,
                "account": self.account,
                "key": self.api_key,
                "req": self.request_id,
                "plan": [(t.provider, t.model, t.credential) for t in self.plan],
                "stream": self.stream,
                "usage": self.include_usage,
                "budget": self.budget_ms,
                **more,
            }
        )

    @classmethod
    def from_wire(cls, header: bytes, body: bytes) -> Job:
        """Raises UnknownEnvelope when another version of Headrace wrote it."""
        fields: dict[str, Any] = orjson.loads(header)
        if fields.get("v") not in (OLDEST_ENVELOPE, ENVELOPE_VERSION):
            raise UnknownEnvelope(fields.get("v"))
        try:
            fallback_on = frozenset(map(FallbackOn, fields.get("on", ())))
            kind, lane, surface = JobKind(fields["kind"]), Lane(fields["lane"]), Surface(fields["surface"])
        except ValueError as exc:
            # A newer release knows more of them; its own workers will take the job.
            raise UnknownEnvelope(exc) from exc
        return cls(
            id=JobId(fields["id"]),
            kind=kind,
            lane=lane,
            surface=surface,
            account=AccountId(fields["account"]),
            api_key=ApiKeyId(fields["key"]),
            request_id=RequestId(fields["req"]),
            plan=tuple(Target(*target) for target in fields["plan"]),
            stream=fields["stream"],
            include_usage=fields["usage"],
            budget_ms=fields["budget"],
            body=body,
            fallback_on=fallback_on,
            held=fields.get("held", False),
            user=fields.get("user"),
            row=fields.get("row"),
            trace=TraceOrigin.from_fields(fields["trace"]) if "trace" in fields else None,
        )


class UnknownEnvelope(Exception):
    def __init__(self, found: object) -> None:
        """`found`: the other version, or what of this one's envelope is not known here."""
        super().__init__(
            f"job envelope version {ENVELOPE_VERSION} does not know: {found}"
            if isinstance(found, ValueError)
            else f"job envelope version {found!r} is not {ENVELOPE_VERSION}"
        )
