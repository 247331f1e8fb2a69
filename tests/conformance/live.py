"""A worker's call to one provider, over a socket, against the scripted provider in that provider's manner."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.errors import BrokerError
from shared.ids import AccountId, ApiKeyId, RequestId, new_job_id
from shared.providers.profile import ProviderProfile
from shared.settings import ProviderSettings
from tests.conformance import goldens
from tests.fakes.provider import ScriptedProvider
from workers.call_provider import CallProgress, Completed, call_provider
from workers.transport import Transport

CALM: Final = ProviderSettings(max_answer_bytes=64 * 1024, max_header_bytes=8 * 1024)
HASTY: Final = ProviderSettings(
    connect_seconds=0.3,
    first_byte_seconds=0.2,
    idle_seconds=0.2,
    total_seconds=0.5,
    max_answer_bytes=64 * 1024,
)
"""Clocks that a test can wait for."""


@dataclass(slots=True)
class Heard:
    """What came of a call. `events` of a stream, those of its end included."""

    body: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    progress: CallProgress = field(default_factory=CallProgress)
    error: BrokerError | None = None


class Caller:
    """Calls `profile` at the scripted provider, or at `url`."""

    def __init__(self, profile: ProviderProfile, provider: ScriptedProvider, *, url: str = "") -> None:
        v1 = "" if profile.models_path.startswith("/v1/") else "/v1"
        self.profile = profile.with_base_url(url or f"{provider.url}/{profile.id}{v1}")
        self.provider = provider

    @classmethod
    def as_hosted(cls, profile: ProviderProfile, provider: ScriptedProvider) -> Caller:
        """With the provider's own base URLs, each kind's its own, moved below the scripted provider's."""
        caller = cls(profile, provider)
        urls = {kind: _moved(url, profile, provider) for kind, url in profile.bases.items()}
        base = _moved(profile.base_url, profile, provider)
        caller.profile = replace(profile, base_url=base, bases=urls)
        return caller

    async def call(
        self,
        kind: JobKind = JobKind.CHAT,
        body: dict[str, Any] | None = None,
        *,
        stream: bool = False,
        settings: ProviderSettings = CALM,
    ) -> Heard:
        """Never raises what a provider did: see `error`."""
        heard = Heard()

        async def emit(events: list[bytes]) -> None:
            heard.events += [orjson.loads(event) for event in events]

        transport = Transport(settings)
        job = self.job(kind, body, stream=stream)
        try:
            completed: Completed = await call_provider(
                job,
                job.target,
                self.profile,
                self.profile.auth.headers("sk-scripted"),
                attempt=1,
                remaining_seconds=60.0,
                transport=transport,
                settings=settings,
                progress=heard.progress,
                emit=emit,
            )
        except BrokerError as error:
            heard.error = error
            return heard
        finally:
            await transport.close()
        heard.events += [orjson.loads(event) for event in completed.tail]
        heard.body = orjson.loads(completed.body) if completed.body else {}
        return heard

    async def say(
        self, text: str, *, stream: bool = False, of: str = "scripted-model", **options: Any
    ) -> Heard:
        """A chat with the model `of`."""
        messages = [{"role": "user", "content": text}]
        return await self.call(body={"model": of, "messages": messages, **options}, stream=stream)

    async def script(self, *, stream: bool = False, settings: ProviderSettings = CALM, **cue: Any) -> Heard:
        """A call that the provider answers as the cue says."""
        messages = [{"role": "user", "content": f"!script {orjson.dumps(cue).decode()}\nHello"}]
        return await self.call(body={"messages": messages}, stream=stream, settings=settings)

    def job(self, kind: JobKind, body: dict[str, Any] | None, *, stream: bool) -> Job:
        document: dict[str, Any] = {"model": "scripted-model", **(body or goldens.BODIES[kind])}
        if stream:
            document["stream"] = True
        return Job(
            id=new_job_id(),
            kind=kind,
            lane=Lane.INTERACTIVE,
            surface=Surface.OPENAI,
            account=AccountId("acc_a"),
            api_key=ApiKeyId("key_a"),
            request_id=RequestId("req_conformance"),
            plan=(Target(self.profile.id, document["model"]),),
            stream=stream,
            include_usage=True,
            budget_ms=60_000,
            body=orjson.dumps(document),
        )


def _moved(url: str, profile: ProviderProfile, provider: ScriptedProvider) -> str:
    return f"{provider.url}/{profile.id}{urlsplit(url).path}"
