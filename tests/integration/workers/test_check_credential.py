"""A worker tries a key that is stored nowhere: what each answer of its provider means."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest

from shared.crypto import Opener, Sealer, candidate_place, new_master_key
from shared.domain.job import CANDIDATE_CREDENTIAL, Job, JobKind, Target
from shared.errors import BrokerError
from shared.ids import AccountId, JobId, new_job_id
from shared.providers import openai, perplexity, vllm
from shared.providers.profile import ProviderProfile
from shared.queue.frames import Result
from shared.settings import BreakerSettings, WorkerSettings
from tests.fakes.provider import ScriptedProvider
from tests.integration.queue.support import Queue, a_job
from tests.integration.workers import support
from tests.integration.workers.raw_provider import answer, error, sends, serving
from tests.integration.workers.support import FAST, failure
from workers.own_credentials import OwnCredentials

PRIVATE, PUBLIC = new_master_key()
ACME, OTHER = AccountId("acme"), AccountId("other")
CANARY = "sk-canary-that-is-tried"
LIST = b'{"object":"list","data":[{"id":"gpt-nine","object":"model","created":7,"owned_by":"x"}]}'
ONE_FAILURE = BreakerSettings(fail_max=1, window_calls=1)
LONG_PAUSES = WorkerSettings(pause_base_seconds=30, pause_cap_seconds=30)


def a_check(
    key: str = CANARY,
    *,
    provider: str = "openai",
    sealed_for: tuple[AccountId, JobId | None, str | None] = (ACME, None, None),
) -> Job:
    """`sealed_for`: account, job and provider, where they are not those of the job."""
    account, other_job, other_provider = sealed_for
    job_id = new_job_id()
    place = candidate_place(account, other_job or job_id, other_provider or provider)
    return replace(
        a_job(job_id=job_id, account=ACME, body=_body(Sealer(PUBLIC).seal(key, place))),
        kind=JobKind.CREDENTIAL_CHECK,
        plan=(Target(provider, "", CANDIDATE_CREDENTIAL),),
    )


def _body(sealed: bytes) -> bytes:
    return orjson.dumps({"sealed": b64encode(sealed).decode()})


def a_worker(queue: Queue, url: str, **options: Any) -> Any:
    own = OwnCredentials(None, Opener(PRIVATE))
    return support.a_worker(queue, url, own_credentials=own, provider=FAST, **options)


def said(result: Result) -> Mapping[str, Any]:
    assert result.head.error is None, result.head.error
    found: dict[str, Any] = orjson.loads(result.body or b"")
    return found


async def test_a_key_that_its_provider_takes_is_valid_and_kept_nowhere(
    queue: Queue, provider: ScriptedProvider
) -> None:
    async with a_worker(queue, provider.base_url) as worker:
        result = await worker.run(a_check())
        sessions = worker.context.transport._sessions
        headers = [dict(session.headers) for session in sessions.values()]
        stored = repr(
            [await queue.link.execute("DUMP", key) for key in await queue.link.execute("KEYS", "*")]
        )

    models = ["scripted-large", "scripted-small"]
    assert said(result) == {"valid": True, "has_access": True, "models": models}
    assert len(headers) == 1
    assert CANARY not in str(headers)
    assert CANARY not in stored


async def test_a_list_that_anybody_sees_proves_nothing(queue: Queue) -> None:
    async with serving(sends(answer(LIST))) as provider, a_worker(queue, provider.base_url) as worker:
        refused = failure(await worker.run(a_check()))

    assert (refused.status, refused.code) == (400, "unsupported_by_provider")
    assert [CANARY.encode() in exchange.head for exchange in provider.exchanges] == [True, False]


async def test_a_provider_that_takes_anybody_takes_any_key(queue: Queue) -> None:
    profiles = {"vllm": vllm.PROFILE}
    async with (
        serving(sends(answer(LIST))) as provider,
        a_worker(queue, provider.base_url, profiles=profiles, secrets={"vllm": "x"}) as worker,
    ):
        result = await worker.run(a_check(provider="vllm"))

    assert said(result)["models"] == ["gpt-nine"]


@pytest.mark.parametrize(
    ("status", "valid"),
    [(401, False), (403, False), (402, True)],
)
async def test_a_refused_key_is_an_answer(
    queue: Queue, provider: ScriptedProvider, status: int, valid: bool
) -> None:
    async with a_worker(queue, provider.base_url) as worker:
        result = await worker.run(a_check(f"sk-refused-with-{status}"))

    assert said(result) == {"valid": valid, "has_access": False, "models": []}


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "rate_limit_exceeded"), (500, "provider_unavailable"), (404, "unsupported_by_provider")],
)
async def test_what_says_nothing_of_the_key_is_an_error_and_stops_nobody(
    queue: Queue, provider: ScriptedProvider, status: int, code: str
) -> None:
    async with a_worker(queue, provider.base_url, breaker=ONE_FAILURE, worker=LONG_PAUSES) as worker:
        refused = failure(await worker.run(a_check(f"sk-refused-with-{status}")))
        condition, room = worker.context.gate.condition("openai"), worker.context.gate.room("openai")

    assert refused.code == code
    assert condition == ("closed", 0.0, 0.0)
    assert room > 0


async def test_a_provider_that_says_nothing_is_an_error(queue: Queue) -> None:
    async with serving(sends(error(500))) as provider:
        pass
    async with a_worker(queue, provider.base_url) as worker:
        refused = failure(await worker.run(a_check()))

    assert refused.code == "provider_unavailable"


@pytest.mark.parametrize(
    "sealed_for",
    [(OTHER, None, None), (ACME, JobId("job_other"), None), (ACME, None, "anthropic")],
)
async def test_a_sealed_key_that_was_copied_from_another_job_opens_nothing(
    queue: Queue, provider: ScriptedProvider, sealed_for: tuple[AccountId, JobId | None, str | None]
) -> None:
    async with a_worker(queue, provider.base_url) as worker:
        refused = failure(await worker.run(a_check(sealed_for=sealed_for)))

    assert (refused.code, refused.details) == ("provider_credential_refused", {"provider": "openai"})


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"sealed":1}', b'{"sealed":"%%"}', b'{"sealed":""}'])
async def test_a_body_that_holds_no_sealed_key_is_a_failure(
    queue: Queue, provider: ScriptedProvider, body: bytes
) -> None:
    async with a_worker(queue, provider.base_url) as worker:
        refused: BrokerError = failure(await worker.run(replace(a_check(), body=body)))

    assert refused.code == "provider_credential_refused"


def test_a_provider_is_asked_where_it_has_a_list() -> None:
    serves = partial(ProviderProfile.serves, kind=JobKind.CREDENTIAL_CHECK)

    assert serves(openai.PROFILE)
    assert not serves(perplexity.PROFILE)
