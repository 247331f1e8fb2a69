"""Models without a price, where callers with a budget are refused them: on every way to a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import keyspace
from shared.domain.allowance import Limits
from shared.domain.job import Job, Target
from shared.domain.roles import Role
from shared.ids import AccountId, JobId
from tests.acceptance.people import SETTINGS, a_person
from tests.acceptance.test_batches import a_line, create, encoded, ended, results, sums_up
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack
from tests.integration.queue.support import open_link

pytestmark = pytest.mark.xdist_group("unpriced")

HELLO = [{"role": "user", "content": "Hello"}]
NAMELESS = "openai/nobody-knows-it"
BUDGET = Limits(monthly_spend_micro_usd=10**9)
CHAT: dict[str, Any] = {"model": NAMELESS, "messages": HELLO}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": {**CHAT, "max_tokens": 50},
    "/v1/responses": {"model": NAMELESS, "input": "Hello"},
    "/v1/completions": {"model": NAMELESS, "prompt": "Hello"},
    "/v1/embeddings": {"model": NAMELESS, "input": "Hello"},
    "/api/v1/chat": CHAT,
    "/generate-text": {"model": NAMELESS, "prompt": "Hello"},
    "/summarize": {"model": NAMELESS, "text": "Hello"},
}


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(
        database_template=sqlite_template,
        settings={**SETTINGS, "HEADRACE_LIMITS__UNPRICED_MODELS": "refuse"},
    )
    start_apart(broker)
    yield broker
    broker.end_now()


def client_of(stack: Stack, key: str) -> httpx.AsyncClient:
    client = stack.client()
    client.headers["authorization"] = f"Bearer {key}"
    return client


async def a_budgeted_key(stack: Stack, name: str, **fields: Any) -> str:
    return await stack.new_api_key(AccountId(name), account_limits=BUDGET, **fields)


def named_in(told: dict[str, Any]) -> str:
    """The message of an error, in whichever form."""
    error = told["error"]
    return str(error["message"] if isinstance(error, dict) else error)


async def plan_of(answer: httpx.Response, stack: Stack) -> tuple[Target, ...]:
    assert answer.status_code == 200, answer.text
    job_id = JobId(answer.headers["x-headrace-job-id"])
    async with open_link(stack.redis.url) as link:
        header = await link.execute("HGET", keyspace.job(0, job_id), "header")
    return Job.from_wire(header, b"").plan


@pytest.mark.parametrize("path", ASKED)
async def test_every_route_refuses_it_before_anything_is_queued(stack: Stack, path: str) -> None:
    before = len(stack.calls())
    async with client_of(stack, await a_budgeted_key(stack, "acme")) as client:
        answer = await client.post(path, json=ASKED[path])

    assert answer.status_code == 403, answer.text
    assert "openai/nobody-knows-it has no price here" in named_in(answer.json())
    assert "x-headrace-job-id" not in answer.headers
    assert len(stack.calls()) == before


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/v1/chat"])
async def test_a_stream_is_refused_with_its_status(stack: Stack, path: str) -> None:
    async with client_of(stack, await a_budgeted_key(stack, "acme")) as client:
        answer = await client.post(path, json={**ASKED[path], "stream": True})

    assert answer.status_code == 403
    assert "has no price here" in named_in(answer.json())


async def test_the_code_is_told_where_a_form_has_one(stack: Stack) -> None:
    async with client_of(stack, await a_budgeted_key(stack, "acme")) as client:
        openai = (await client.post("/v1/chat/completions", json=CHAT)).json()["error"]
        anthropic = (await client.post("/v1/messages", json=ASKED["/v1/messages"])).json()["error"]
        unified = (await client.post("/api/v1/chat", json=CHAT)).json()["error"]

    assert (openai["code"], openai["param"]) == ("model_not_priced", "model")
    assert anthropic["type"] == "permission_error"
    assert (unified["type"], unified["details"]["code"]) == ("authorization_error", "model_not_priced")
    assert unified["details"]["scope"] == "account"


async def test_what_is_done_later_is_refused_at_once(stack: Stack) -> None:
    async with client_of(stack, await a_budgeted_key(stack, "later")) as client:
        answers = [
            await client.post("/api/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": CHAT}),
            await client.post("/v1/responses", json={**ASKED["/v1/responses"], "background": True}),
            await client.post("/api/v1/chat", json=CHAT, headers={"prefer": "respond-async"}),
        ]
        jobs = (await client.get("/api/v1/jobs")).json()["data"]

    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert jobs == []


async def test_a_line_of_a_batch_fails_alone(stack: Stack) -> None:
    lines = [a_line(f"n{n}") for n in range(3)]
    lines.insert(1, a_line("unpriced", body=CHAT))
    async with client_of(stack, await a_budgeted_key(stack, "many")) as client:
        batch = await ended(client, (await create(client, encoded(lines)))["id"])
        (error,) = await results(client, batch["error_file_id"])

    assert sums_up(batch)
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 3)
    assert error["custom_id"] == "unpriced"
    assert (error["error"]["code"], error["error"]["line"]) == ("model_not_priced", 2)
    assert "has no price here" in error["error"]["message"]


@pytest.mark.parametrize(
    "model",
    ["gpt-4o-mini", "vllm/house-7b"],
)
async def test_what_can_be_counted_or_is_the_operators_own_runs(stack: Stack, model: str) -> None:
    async with client_of(stack, await a_budgeted_key(stack, "acme")) as client:
        answer = await client.post("/v1/chat/completions", json={**CHAT, "model": model})

    assert answer.status_code == 200, answer.text


async def test_who_has_no_budget_may_ask_for_it(stack: Stack) -> None:
    key = await stack.new_api_key(AccountId("free"), account_limits=Limits(daily_requests=100))
    async with client_of(stack, key) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)

    assert answer.status_code == 200, answer.text


async def test_the_budget_of_the_key_or_of_a_tier_is_one_too(stack: Stack) -> None:
    of_key = await stack.new_api_key(AccountId("keyed"), limits=BUDGET)
    ada = await a_person(stack)  # whose account is of the standard tier
    scopes = []
    for token in (of_key, ada.token):
        async with client_of(stack, token) as client:
            answer = await client.post("/api/v1/chat", json=CHAT)
            assert answer.status_code == 403, answer.text
            scopes.append(answer.json()["error"]["details"]["scope"])

    assert scopes == ["key", "account"]


async def test_the_budget_of_a_member_is_one_too(stack: Stack) -> None:
    ada = await a_person(stack)
    async with client_of(stack, await stack.new_api_key(AccountId("club"), role=Role.ADMIN)) as client:
        added = await client.post(
            "/api/v1/members",
            json={"email": ada.email, "role": "member", "limits": {"monthly_spend_usd": 5}},
        )
        assert added.status_code == 201, added.text
    there = await ada.into("club")
    async with there.client() as client:
        answer = await client.post("/api/v1/chat", json=CHAT)

    assert answer.status_code == 403, answer.text
    assert answer.json()["error"]["details"]["scope"] == "user"


async def test_targets_without_a_price_are_left_out_of_a_plan(stack: Stack) -> None:
    mini, haiku = Target("openai", "gpt-4o-mini"), Target("anthropic", "claude-haiku-4-5")
    behind = {**CHAT, "model": "gpt-4o-mini", "fallback_models": [NAMELESS, "claude-haiku-4-5"]}
    first = {**CHAT, "fallback_models": ["claude-haiku-4-5"]}
    only = {**CHAT, "fallback_models": ["anthropic/nobody-knows-it"]}
    async with client_of(stack, await a_budgeted_key(stack, "acme")) as client:
        plans = [
            await plan_of(await client.post("/v1/chat/completions", json=body), stack)
            for body in (behind, first)
        ]
        refused = await client.post("/v1/chat/completions", json=only)

    assert plans == [(mini, haiku), (haiku,)]
    assert refused.status_code == 403
    assert "None of openai/nobody-knows-it, anthropic/nobody-knows-it" in named_in(refused.json())


async def test_tokens_of_it_can_be_counted(stack: Stack) -> None:
    body = {"model": "anthropic/nobody-knows-it", "messages": HELLO}
    async with client_of(stack, await a_budgeted_key(stack, "acme")) as client:
        answer = await client.post("/v1/messages/count_tokens", json=body)

    assert answer.status_code == 200, answer.text


async def test_unless_the_operator_says_so_it_runs_and_counts_as_nothing(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(schedulers=0)
    async with client_of(stack, await a_budgeted_key(stack, "acme")) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)
        limits = (await client.get("/api/v1/quota")).json()["limits"]

    assert answer.status_code == 200, answer.text
    counted = {limit["measure"]: (limit["used"], limit["reserved"]) for limit in limits}
    assert counted["daily_requests"] == (1, 0)
    assert counted["monthly_spend_usd"] == (0, 0)
