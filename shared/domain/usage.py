"""What a job consumed and how it ended: the facts the ledger settles."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

import orjson

LARGEST_COUNT: Final = 10**15
"""Of tokens or micro-dollars, the most that one call can be. More is a mistake of whoever said it, and would
not leave room for sums in the 64 bits that the databases have.
"""
MOST_TOKENS: Final = 10**12
"""Of any one count that a provider tells: sums and prices of these stay below the largest."""


class Outcome(StrEnum):
    """How a job ended, a closed set: metric label and ledger column."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them, or our estimate when it did not say.

    `prompt_tokens` are all of the prompt: among them those read from its cache, and those written to it,
    some of these for an hour instead of minutes. `completion_tokens` are so with `reasoning_tokens`.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class AttemptOutcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Broken off: its caller stopped it, or its worker did, and gave the job back."""
    LOST = "lost"
    """Its worker died. What the provider charges for it nobody can tell."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to a provider on behalf of a job. `cost_micro_usd`: None where nobody can tell."""

    provider: str
    model: str
    credential: str
    outcome: AttemptOutcome
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_micro_usd: int | None = 0
    provider_ms: int = 0

    def to_wire(self) -> bytes:
        """One line."""
        return orjson.dumps(
            [
                self.provider,
                self.model,
                self.credential,
                self.outcome,
                self.error,
                self.prompt_tokens,
                self.completion_tokens,
                self.cost_micro_usd,
                self.provider_ms,
            ]
        )

    @classmethod
    def from_wire(cls, line: bytes) -> Self:
        """Raises ValueError or TypeError."""
        provider, model, credential, outcome, *rest = orjson.loads(line)
        return cls(provider, model, credential, AttemptOutcome(outcome), *rest)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The last word on a job, written once by the script that ends it.

    Times in milliseconds: `queue_ms` from enqueue to begin, `provider_ms` the provider
    call, `ttft_ms` to its first token. `error` is an error code, never a message. `called`: whether a
    provider was asked in the last run.
    """

    outcome: Outcome
    provider: str
    model: str
    usage: Usage = Usage()
    cost_micro_usd: int = 0
    queue_ms: int = 0
    provider_ms: int = 0
    ttft_ms: int | None = None
    attempts: int = 0
    deliveries: int = 0
    error: str | None = None
    called: bool = False

    def to_wire(self) -> bytes:
        usage = self.usage
        return orjson.dumps(
            {
                "outcome": self.outcome,
                "provider": self.provider,
                "model": self.model,
                "in": usage.prompt_tokens,
                "out": usage.completion_tokens,
                "cached": usage.cached_tokens,
                "written": usage.cache_write_tokens,
                "written_1h": usage.cache_write_1h_tokens,
                "reasoning": usage.reasoning_tokens,
                "estimated": usage.estimated,
                "cost": self.cost_micro_usd,
                "queue_ms": self.queue_ms,
                "provider_ms": self.provider_ms,
                "ttft_ms": self.ttft_ms,
                "attempts": self.attempts,
                "deliveries": self.deliveries,
                "error": self.error,
                "called": self.called,
            }
        )

    @classmethod
    def from_wire(cls, wire: bytes) -> Self:
        fields: dict[str, Any] = orjson.loads(wire)
        return cls(
            outcome=Outcome(fields["outcome"]),
            provider=fields["provider"],
            model=fields["model"],
            usage=Usage(
                prompt_tokens=fields["in"],
                completion_tokens=fields["out"],
                cached_tokens=fields["cached"],
                reasoning_tokens=fields["reasoning"],
                estimated=fields["estimated"],
                # Workers of the release before do not say.
                cache_write_tokens=fields.get("written", 0),
                cache_write_1h_tokens=fields.get("written_1h", 0),
            ),
            cost_micro_usd=fields["cost"],
            queue_ms=fields["queue_ms"],
            provider_ms=fields["provider_ms"],
            ttft_ms=fields["ttft_ms"],
            attempts=fields["attempts"],
            deliveries=fields["deliveries"],
            error=fields["error"],
            called=fields.get("called", fields["provider_ms"] > 0),
        )
