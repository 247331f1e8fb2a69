"""The running broker that the contract tests are clients of, in a form that fits an environment variable."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Final

from tests.fakes.provider import ScriptedProvider

BROKER_VARIABLE: Final = "HEADRACE_TEST_BROKER"
"""Where the run with the older client finds the broker of the run that started it."""

HOLD_SECONDS: Final = 2.5
HEARTBEAT_SECONDS: Final = 0.1
REQUEST_TIMEOUT_SECONDS: Final = 8.0

SETTINGS: Final = {
    "HEADRACE_API__STREAM_HOLD_SECONDS": str(HOLD_SECONDS),
    "HEADRACE_API__HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    "HEADRACE_API__REQUEST_TIMEOUT_SECONDS": str(REQUEST_TIMEOUT_SECONDS),
    "HEADRACE_API__DISCONNECT_GRACE_SECONDS": "0.2",
    # What one test makes a provider do is no reason to leave it alone in the next.
    "HEADRACE_WORKER__PAUSE_BASE_SECONDS": "0.01",
    "HEADRACE_WORKER__PAUSE_CAP_SECONDS": "0.05",
    "HEADRACE_BREAKER__FAIL_MAX": "1000000",
    "HEADRACE_BREAKER__WINDOW_CALLS": "1000000",
    "HEADRACE_QUEUE__RETRY_BUDGET_PERCENT": "100000",
    # A provider that limits our rate for ever is told of after this: later than any Retry-After here
    # has passed, and while a stream's status is still held.
    "HEADRACE_QUEUE__MAX_WAIT_SECONDS": "1.5",
    # Away long enough that a frozen Redis is not taken for a dead worker.
    "HEADRACE_QUEUE__LEASE_IDLE_SECONDS": "20",
}


@dataclass(frozen=True, slots=True)
class BrokerUnderTest:
    """`other_api_key` belongs to another account."""

    url: str
    api_key: str
    other_api_key: str
    provider_url: str
    redis_pid: int

    @property
    def base_url(self) -> str:
        """What the OpenAI client takes."""
        return f"{self.url}/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"}

    def provider(self) -> ScriptedProvider:
        """To ask what it was called with; its process belongs to somebody else."""
        provider = ScriptedProvider()
        provider.url = self.provider_url
        return provider

    def to_environment(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> BrokerUnderTest | None:
        text = os.environ.get(BROKER_VARIABLE)
        return cls(**json.loads(text)) if text else None
