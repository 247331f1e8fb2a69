"""The operators' routes for dead letters: who may use them, and what each does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.admin_v1.guard import HOLDER
from api.main import create_app
from shared.auth import api_keys
from shared.db.engine import create_engine
from shared.db.repositories import accounts
from shared.db.repositories import api_keys as api_key_rows
from shared.domain.job import Job, JobState
from shared.ids import AccountId, new_job_id
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings, load_settings
from tests.integration.queue.support import Queue, a_job, open_link
from tests.integration.queue.test_dead_letters import dies, expires
from tests.unit.observability.log_lines import captured

PEPPER = b"p" * 48
TOKEN = "operators-only-é-" + "t" * 32
PATH = "/api/v1/admin/dead-letters"

Api = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


@pytest.fixture
def queue(link: RedisLink) -> Queue:
    return Queue(link, QueueSettings())


@pytest.fixture
async def api(redis_url: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """An api whose admin token is `token`, and a client that sends `sends`."""
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    async with AsyncExitStack() as running:

        async def start(*, token: str | None = TOKEN, sends: str = TOKEN) -> httpx.AsyncClient:
            if token is not None:
                monkeypatch.setenv("HEADRACE_ADMIN_TOKEN", token)
            served, app = create_app(load_settings(), redis_url, PEPPER)
            await running.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=served),
                base_url="http://localhost",
                headers=[(b"authorization", b"Bearer " + sends.encode())] if sends else None,
            )
            return await running.enter_async_context(client)

        yield start


async def an_api_key(sqlite_url: str) -> str:
    engine = create_engine(sqlite_url)
    now = datetime.now(UTC)
    token, record = api_keys.mint(PEPPER, account=AccountId("acme"), name="test", now=now)
    async with engine.begin() as connection:
        await accounts.ensure(connection, AccountId("acme"), name="acme", at=now)
        await api_key_rows.create(connection, record)
    await engine.dispose()
    return token


def every_route(job: Job) -> list[tuple[str, str]]:
    return [
        ("GET", PATH),
        ("GET", f"{PATH}/{job.id}"),
        ("GET", f"{PATH}/{job.id}?include_body=yes-and-no"),
        ("POST", f"{PATH}/{job.id}/redrive"),
        ("POST", f"{PATH}/redrive"),
        ("DELETE", f"{PATH}/{job.id}?confirm=true"),
    ]


async def test_without_a_token_in_the_settings_no_token_opens_them(api: Api, queue: Queue) -> None:
    await dies(queue, job := a_job())
    client = await api(token=None)

    answers = [await client.request(method, path) for method, path in every_route(job)]

    assert {answer.status_code for answer in answers} == {401}


async def test_the_admin_token_alone_opens_them(api: Api, queue: Queue, sqlite_url: str) -> None:
    await dies(queue, job := a_job())
    client, key = await api(sends=""), await an_api_key(sqlite_url)

    async def statuses(headers: dict[str, str]) -> set[int]:
        answers = [await client.request(m, path, headers=headers) for m, path in every_route(job)]
        return {answer.status_code for answer in answers}

    with captured() as lines:
        assert await statuses({}) == {401}
        assert await statuses({"authorization": "Bearer " + "x" * 40}) == {401}
        assert await statuses({"authorization": f"Bearer {key}"}) == {403}
        assert await statuses({"x-api-key": key}) == {403}

    assert await queue.entries(job) == []
    refusals = [line for line in lines.events() if line["event"] == "admin refused"]
    assert len(refusals) == 3 * len(every_route(job))
    assert key not in json.dumps(lines.events())


async def test_letters_are_listed_and_shown_without_what_was_asked(api: Api, queue: Queue) -> None:
    jobs = [a_job(body=b'{"model":"m","messages":["secret"]}') for _ in range(3)]
    await dies(queue, *jobs)
    client = await api()

    first = await client.get(PATH, params={"limit": 2, "provider": "openai", "reason": "poison"})
    rest = await client.get(PATH, params={"limit": 2, "cursor": first.json()["next_cursor"]})
    shown = await client.get(f"{PATH}/{jobs[0].id}")
    whole = await client.get(f"{PATH}/{jobs[0].id}", params={"include_body": True})

    listed = first.json()["data"] + rest.json()["data"]
    assert [letter["job_id"] for letter in listed] == [job.id for job in reversed(jobs)]
    assert rest.json()["next_cursor"] is None
    assert "secret" not in first.text + shown.text
    assert (shown.json()["state"], shown.json()["error"]) == ("failed", {"code": "poison"})
    assert whole.json()["body"] == {"model": "m", "messages": ["secret"]}


async def test_a_letter_is_redriven_once_and_every_act_is_a_line_in_the_log(api: Api, queue: Queue) -> None:
    await dies(queue, job := a_job())
    client = await api()

    with captured() as lines:
        first, again = [(await client.post(f"{PATH}/{job.id}/redrive")).json() for _ in range(2)]
        by_filter = await client.post(f"{PATH}/redrive", json={"provider": "openai"})
        purged = await client.delete(f"{PATH}/{job.id}", params={"confirm": True})

    assert (first["repeated"], again["repeated"]) == (False, True)
    assert first["redriven_as"] == again["redriven_as"]
    assert by_filter.json() == {"redriven": [], "failed": [], "more": False}
    assert purged.json() == {"job_id": job.id, "purged": True}
    lease = await queue.lease(queue.consumer("healthy"))
    assert lease.job.id == first["redriven_as"]
    acts = [line for line in lines.events() if line["event"].startswith("dead letter")]
    assert [(line["event"], line["by"], line["job_id"]) for line in acts] == [
        ("dead letter redriven", HOLDER, job.id),
        ("dead letter redriven", HOLDER, job.id),
        ("dead letter purged", HOLDER, job.id),
    ]


async def test_letters_of_a_provider_are_redriven_together(api: Api, queue: Queue) -> None:
    jobs = [a_job() for _ in range(3)]
    await dies(queue, *jobs)
    client = await api()

    answer = await client.post(f"{PATH}/redrive", json={"provider": "openai", "limit": 2})

    assert [one["job_id"] for one in answer.json()["redriven"]] == [jobs[2].id, jobs[1].id]
    assert answer.json()["more"] is True
    assert len(await queue.entries(jobs[0])) == 2


async def test_what_cannot_be_done_is_said(api: Api, queue: Queue) -> None:
    await dies(queue, expired := a_job(), kept := a_job())
    await expires(queue, expired)
    client = await api()

    async def told(method: str, path: str, body: object = None) -> tuple[int, str | None]:
        answer = await client.request(method, PATH + path, json=body)
        return answer.status_code, answer.json()["error"]["details"].get("code")

    assert await told("POST", f"/{expired.id}/redrive") == (409, "dead_letter_expired")
    assert await told("GET", f"/{new_job_id()}") == (404, "not_found")
    assert await told("GET", "/job_x") == (404, "not_found")
    assert (await told("DELETE", f"/{kept.id}"))[0] == 422
    assert (await told("POST", "/redrive", {}))[0] == 422
    assert (await told("POST", "/redrive", {"limit": 5}))[0] == 422
    assert (await told("POST", "/redrive", {"provider": "openai", "all": True}))[0] == 422
    assert (await told("GET", "?limit=0"))[0] == 422
    assert (await told("GET", "?cursor=x"))[0] == 422
    assert len((await client.get(PATH)).json()["data"]) == 2
    assert await queue.state(kept) == JobState.FAILED


async def test_dead_letters_are_counted_in_the_metrics(api: Api, queue: Queue) -> None:
    await dies(queue, a_job(), a_job())
    client = await api()

    page = await client.get("/metrics")

    (gauge,) = [f for f in text_string_to_metric_families(page.text) if f.name == "gateway_dead_letters"]
    counts = {sample.labels["provider"]: sample.value for sample in gauge.samples}
    assert counts["openai"] == 2
    assert counts["anthropic"] == 0


def test_a_short_admin_token_is_refused_at_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_ADMIN_TOKEN", "t" * 31)

    with pytest.raises(ValueError, match="at least 32"):
        load_settings()
