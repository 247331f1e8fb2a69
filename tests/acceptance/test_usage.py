"""What an account used, over real processes: each call, each job, each report."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from shared.db.engine import create_engine, writing
from shared.db.tables import usage
from shared.domain.roles import Permission
from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("usage")

ROUTE = "/v1/chat/completions"
ADMIN = "an admin token of thirty-two characters"


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    settings = {"HEADRACE_BILLING_MARKUP_PERCENT": "50", "HEADRACE_ADMIN_TOKEN": ADMIN}
    broker = Stack(workers=2, database_template=sqlite_template, settings=settings)
    start_apart(broker)
    yield broker
    broker.end_now()


def chat(cue: dict[str, Any] | None = None, model: str = "gpt-4o-mini") -> dict[str, Any]:
    script = f"!script {json.dumps(cue)}\n" if cue else ""
    return {"model": model, "messages": [{"role": "user", "content": f"{script}Hello"}], "max_tokens": 50}


async def client_of(stack: Stack, account: str, **key: Any) -> httpx.AsyncClient:
    client = stack.client()
    client.headers["authorization"] = f"Bearer {await stack.new_api_key(AccountId(account), **key)}"
    return client


async def attempts_of(stack: Stack, job_id: str) -> list[tuple[str, str | None, int | None]]:
    """Outcome, error and cost of each call, once the job is in the ledger."""

    async def is_there() -> bool:
        return any(row["job_id"] == job_id for row in await stack.ledger())

    await eventually(is_there, "job in the ledger")
    engine = create_engine(stack.database_url)
    try:
        async with engine.connect() as connection:
            rows = await connection.execute(
                text("SELECT * FROM usage_attempt WHERE job_id = :job ORDER BY ordinal"), {"job": job_id}
            )
            return [(row.outcome, row.error, row.cost_micro_usd) for row in rows]
    finally:
        await engine.dispose()


async def until_used(client: httpx.AsyncClient, jobs: int) -> dict[str, Any]:
    async def is_used() -> bool:
        return bool((await client.get("/api/v1/usage")).json()["total"]["jobs"] == jobs)

    await eventually(is_used, f"{jobs} jobs used")
    report: dict[str, Any] = (await client.get("/api/v1/usage")).json()
    return report


async def test_a_call_that_failed_is_a_row_of_its_own(stack: Stack) -> None:
    cue = {"status": 503, "fail_times": {"key": "usage-a", "n": 2}}
    async with await client_of(stack, "retried") as client:
        answer = await client.post(ROUTE, json=chat(cue))

    job_id = answer.headers["x-headrace-job-id"]
    found = await attempts_of(stack, job_id)
    assert [outcome for outcome, _, _ in found] == ["failed", "failed", "succeeded"]
    assert found[0][1:] == ("provider_unavailable", 0)
    (row,) = [row for row in await stack.ledger() if row["job_id"] == job_id]
    assert found[2][2] == row["cost_micro_usd"] > 0


async def test_calls_at_several_providers_are_each_told(stack: Stack) -> None:
    body = {**chat({"status": 503}), "fallbacks": ["anthropic/claude-haiku-4-5"]}
    async with await client_of(stack, "moved") as client:
        answer = await client.post(ROUTE, json=body)

    assert answer.status_code in {502, 503}
    found = await attempts_of(stack, await _only_job(stack, "moved"))
    assert {outcome for outcome, _, _ in found} == {"failed"}
    assert len(found) >= 2


async def _only_job(stack: Stack, account: str) -> str:
    async def is_there() -> bool:
        return any(row["account_id"] == account for row in await stack.ledger())

    await eventually(is_there, "job in the ledger")
    (job_id,) = [row["job_id"] for row in await stack.ledger() if row["account_id"] == account]
    return str(job_id)


async def test_a_call_whose_worker_died_is_lost_and_its_price_is_not_known(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=1)
    async with stack.client() as client:
        asking = asyncio.create_task(client.post(ROUTE, json=chat({"before_headers_ms": 1_000})))
        await eventually(lambda: len(stack.calls()) == 1, "the call")
        await stack.kill9(stack.workers[0])
        stack.spawn_worker()
        answer = await asking

    assert answer.status_code == 200
    found = await attempts_of(stack, answer.headers["x-headrace-job-id"])
    assert [(outcome, cost is None) for outcome, _, cost in found] == [("lost", True), ("succeeded", False)]


async def test_a_report_says_what_was_used_and_what_is_billed(stack: Stack) -> None:
    async with await client_of(stack, "reported") as client:
        for model in ("gpt-4o-mini", "gpt-4o-mini", "anthropic/claude-haiku-4-5"):
            assert (await client.post(ROUTE, json=chat(model=model))).status_code == 200
        report = await until_used(client, 3)
        by_model = (await client.get("/api/v1/usage", params={"by": ["model", "day"]})).json()
        only = (await client.get("/api/v1/usage", params={"provider": "anthropic"})).json()
        as_csv = await client.get("/api/v1/usage", params={"by": "model"}, headers={"accept": "text/csv"})
        page = (await client.get("/api/v1/usage/jobs", params={"limit": 2})).json()
        rest = (await client.get("/api/v1/usage/jobs", params={"cursor": page["next_cursor"]})).json()

    total = report["total"]
    assert (total["jobs"], total["succeeded"]) == (3, 3)
    assert total["billed_usd"] == pytest.approx(total["cost_usd"] * 1.5, abs=3e-6)
    assert {group["model"]: group["jobs"] for group in by_model["groups"]} == {
        "gpt-4o-mini": 2,
        "claude-haiku-4-5": 1,
    }
    assert sum(group["cost_usd"] for group in by_model["groups"]) == pytest.approx(total["cost_usd"])
    assert only["total"]["jobs"] == 1
    table = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert as_csv.headers["content-type"].startswith("text/csv")
    assert sorted(row["model"] for row in table) == ["claude-haiku-4-5", "gpt-4o-mini"]
    assert len(page["data"]) == 2
    assert len(rest["data"]) == 1
    assert rest["next_cursor"] is None
    assert len({row["job_id"] for row in page["data"] + rest["data"]}) == 3


async def test_an_account_sees_itself_alone_and_an_operator_everybody(stack: Stack) -> None:
    async with await client_of(stack, "seen") as mine, await client_of(stack, "unseen") as other:
        assert (await mine.post(ROUTE, json=chat())).status_code == 200
        await until_used(mine, 1)
        of_other = (await other.get("/api/v1/usage")).json()
        rows_of_other = (await other.get("/api/v1/usage/jobs")).json()
        refused = await mine.get("/api/v1/admin/usage")
        asking_for_more = await mine.get("/api/v1/usage", params={"by": "account"})
        mine.headers["authorization"] = f"Bearer {ADMIN}"
        by_operator = (await mine.get("/api/v1/admin/usage", params={"by": "account"})).json()
        rows = (await mine.get("/api/v1/admin/usage/jobs", params={"account": "seen"})).json()

    assert of_other["total"]["jobs"] == 0
    assert rows_of_other["data"] == []
    assert (refused.status_code, asking_for_more.status_code) == (403, 422)
    assert "seen" in {group["account"] for group in by_operator["groups"]}
    assert [row["account"] for row in rows["data"]] == ["seen"]


async def test_a_key_without_the_scope_sees_nothing(stack: Stack) -> None:
    async with await client_of(stack, "scoped", scopes=(Permission.INFERENCE.value,)) as client:
        answers = [
            await client.get("/api/v1/usage"),
            await client.get("/api/v1/usage/jobs"),
            await client.post(ROUTE, json=chat()),
        ]

    assert [answer.status_code for answer in answers] == [403, 403, 200]


@pytest.mark.parametrize(
    "query",
    [
        {"from": "yesterday"},
        {"from": "2026-13-01"},
        {"from": "2026-11-02", "to": "2026-11-01"},
        {"from": "2020-01-01", "to": "2026-01-01"},
        {"from": "0001-01-01T00:00:00+23:59", "to": "0001-01-02"},
        {"by": "tenant"},
        {"by": ["day", "model", "key", "user"]},
        {"outcome": "fine"},
        {"format": "xml"},
        {"model": "a b"},
        {"model": "x" * 300},
    ],
)
async def test_a_question_that_makes_no_sense_is_told_so(stack: Stack, query: dict[str, Any]) -> None:
    async with stack.client() as client:
        answer = await client.get("/api/v1/usage", params=query)

    assert answer.status_code == 422


@pytest.mark.parametrize("cursor", ["x", "bm9uZQ==", "MjAyNi0xMS0wMXx4", "\u00fc", "A" * 300, ""])
async def test_a_cursor_of_ones_own_making_is_refused(stack: Stack, cursor: str) -> None:
    async with stack.client() as client:
        answer = await client.get("/api/v1/usage/jobs", params={"cursor": cursor})

    assert answer.status_code == 422


async def test_a_report_that_has_not_all_groups_says_so(stack: Stack) -> None:
    now = datetime.now(UTC)
    row = {
        **{"account_id": "acc_many", "request_id": "req_1", "kind": "chat", "surface": "openai"},
        **{
            "lane": "interactive",
            "stream": False,
            "provider": "openai",
            "model": "m",
            "outcome": "succeeded",
        },
        **{"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0, "reasoning_tokens": 0},
        **{"estimated": False, "cost_micro_usd": 1, "queue_ms": 0, "provider_ms": 0, "attempts": 1},
        **{"deliveries": 1, "created_at": now},
    }
    engine = create_engine(stack.database_url)
    async with writing(engine) as connection:
        rows = [row | {"job_id": f"many_{n}", "api_key_id": f"key_{n}"} for n in range(10_001)]
        await connection.execute(usage.insert(), rows)
    await engine.dispose()

    async with await client_of(stack, "acc_many") as client:
        as_json = (await client.get("/api/v1/usage", params={"by": "key"})).json()
        as_csv = await client.get("/api/v1/usage", params={"by": "key", "format": "csv"})
        whole = await client.get("/api/v1/usage", params={"by": "model", "format": "csv"})

    assert (as_json["truncated"], len(as_json["groups"]), as_json["total"]["jobs"]) == (
        True,
        10_000,
        10_001,
    )
    assert as_csv.headers["x-truncated"] == "true"
    assert "x-truncated" not in whole.headers
