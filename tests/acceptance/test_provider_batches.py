"""Batches that a provider's own batch API runs: handed over, fetched, billed at its price."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from shared.domain.allowance import Limits
from shared.domain.roles import Role
from shared.ids import AccountId
from tests.acceptance.test_batches import a_line, chat, create, encoded, ended, results, sums_up
from tests.acceptance.test_cli_broker import run
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("provider-batches")

FAST: Final = {
    "HEADRACE_BATCHES__PROVIDER_POLL_SECONDS": "0.2",
    "HEADRACE_BATCHES__PROVIDER_CANCEL_SECONDS": "10",
}
CLAUDE: Final = "claude-haiku-4-5"


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(database_template=sqlite_template, settings=FAST)
    start_apart(broker)
    yield broker
    broker.end_now()


@pytest.fixture(autouse=True)
async def _forgotten(request: pytest.FixtureRequest) -> None:
    if "stack" in request.fixturenames:
        await request.getfixturevalue("stack").provider.clear()


def message(text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": CLAUDE, "max_tokens": 50, "messages": [{"role": "user", "content": text}], **more}


def lines_of(texts: Iterable[str], **body: Any) -> bytes:
    return encoded(a_line(f"n{n}", body={**chat(text), **body}) for n, text in enumerate(texts))


async def as_account(stack: Stack, client: httpx.AsyncClient, name: str, **fields: Any) -> AccountId:
    account = AccountId(name)
    client.headers["authorization"] = f"Bearer {await stack.new_api_key(account, **fields)}"
    return account


async def billed(stack: Stack, account: AccountId, count: int) -> list[dict[str, Any]]:
    """The rows of the ledger of an account, once there are so many, none of a step with a batch."""

    async def look() -> list[dict[str, Any]] | None:
        rows = [row for row in await stack.ledger() if row["account_id"] == account]
        return rows if len(rows) >= count else None

    found = await eventually(look, "rows of the ledger", every=0.2)
    found = list(found or ())
    assert {row["kind"] for row in found} & {"provider_batch"} == set()
    return found


@pytest.mark.parametrize(
    ("endpoint", "body", "provider"),
    [
        ("/v1/chat/completions", chat(), "openai"),
        ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Once"}, "openai"),
        ("/v1/embeddings", {"model": "openai/text-embedding-3-small", "input": ["one", "two"]}, "openai"),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello"}, "openai"),
        ("/v1/messages", {**message(), "model": "gpt-4o-mini"}, "openai"),
        ("/v1/messages", message(), "anthropic"),
        ("/v1/chat/completions", {**chat(), "model": CLAUDE}, "anthropic"),
        ("/v1/responses", {"model": CLAUDE, "input": "Hello"}, "anthropic"),
    ],
)
async def test_a_batch_is_run_by_its_provider_and_answered_as_its_route_answers(
    stack: Stack, endpoint: str, body: dict[str, Any], provider: str
) -> None:
    async with stack.client() as client:
        account = await as_account(stack, client, f"p{endpoint.replace('/', '-')}-{body['model'][:6]}")
        content = encoded(a_line(f"n{n}", url=endpoint, body=body) for n in range(3))
        created = await create(client, content, endpoint=endpoint, execution="provider")
        batch = await ended(client, created["id"])
        answers = await results(client, batch["output_file_id"])
        rows = await billed(stack, account, 3)
        at_once = (await client.post(endpoint, json=body)).json()

    (theirs,) = await stack.provider.batches()
    assert (created["execution"], created["handed_over"]) == ("provider", None)
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 3)
    assert batch["handed_over"] == {"provider": provider, "batches": [theirs["id"]], "why_not": None}
    assert [answer["custom_id"] for answer in answers] == ["n0", "n1", "n2"]
    for answer in answers:
        assert answer["response"]["body"].keys() == at_once.keys()
    assert len(theirs["requests"]) == len(set(theirs["requests"])) == 3
    if provider == "openai":
        assert theirs["metadata"]["headrace_batch"] == f"{batch['id']}.0"
    assert {row["provider"] for row in rows} == {provider}
    assert {row["outcome"] for row in rows} == {"succeeded"}


async def test_requests_that_came_in_the_body_are_handed_over_too(stack: Stack) -> None:
    asked = {"custom_id": "n0", "params": message()}
    unified = {"custom_id": "n0", "url": "/v1/messages", "body": message()}
    async with stack.client() as client:
        await as_account(stack, client, "inline")
        for path, request in (("/v1/messages/batches", asked), ("/api/v1/batches", unified)):
            made = await client.post(path, json={"requests": [request], "execution": "provider"})
            assert made.is_success, made.text
            batch_id = made.json()["id"]

            async def has_ended(batch_id: str = batch_id) -> dict[str, Any] | None:
                found: dict[str, Any] = (await client.get(f"/api/v1/batches/{batch_id}")).json()
                return found if found["ended_at"] else None

            batch = await eventually(has_ended, "the end of the batch", within=60.0)
            assert batch is not None
            lines = (await client.get(f"{path}/{batch_id}/results")).text.splitlines()

            assert (batch["status"], batch["request_counts"]["succeeded"]) == ("completed", 1)
            assert (batch["execution"], batch["handed_over"]["provider"]) == ("provider", "anthropic")
            assert [json.loads(line)["custom_id"] for line in lines] == ["n0"]

    assert len(await stack.provider.batches()) == 2


async def test_answers_are_billed_once_at_the_price_of_the_providers_batches(stack: Stack) -> None:
    text = "word " * 4_000
    async with stack.client() as client:
        account = await as_account(stack, client, "thrifty")
        at_once = await client.post("/v1/chat/completions", json=chat(text))
        created = await create(client, lines_of([text] * 2), execution="provider")
        batch = await ended(client, created["id"])
        rows = await billed(stack, account, 3)

    full, *halves = sorted((row["cost_micro_usd"] for row in rows), reverse=True)
    assert at_once.status_code == 200
    assert full > 0
    assert halves == [-(-full // 2)] * 2
    assert batch["usage"]["total_tokens"] == 2 * at_once.json()["usage"]["total_tokens"]


async def test_what_a_provider_refuses_expires_or_forgets_is_told_of_its_line(stack: Stack) -> None:
    cues: list[dict[str, Any]] = [{}, {"status": 400}, {"name": "expires"}, {"name": "lost"}]
    content = encoded(a_line(f"n{n}", body=chat(cue=cue or None)) for n, cue in enumerate(cues))
    async with stack.client() as client:
        account = await as_account(stack, client, "mishaps")
        created = await create(client, content + b"no JSON\n", execution="provider")
        batch = await ended(client, created["id"])
        errors = {one["custom_id"]: one for one in await results(client, batch["error_file_id"])}
        rows = await billed(stack, account, 2)

    assert batch["request_counts"] == {"total": 5, "completed": 1, "failed": 3, "cancelled": 0, "expired": 1}
    assert batch["status"] == "expired"
    assert errors["n1"]["response"]["status_code"] == 400
    assert errors["n2"]["error"]["code"] == "batch_expired"
    assert errors["n3"]["error"]["code"] == "provider_batch_failed"
    assert errors[None]["error"]["code"] == "invalid_json_line"
    assert sorted((row["outcome"], row["cost_micro_usd"] > 0) for row in rows) == [
        ("failed", False), ("succeeded", True),
    ]  # fmt: skip


async def test_with_auto_what_the_provider_did_not_answer_runs_line_by_line(stack: Stack) -> None:
    cues: list[dict[str, Any] | None] = [None, {"name": "expires"}, {"name": "lost"}]
    content = encoded(a_line(f"n{n}", body=chat(cue=cue)) for n, cue in enumerate(cues))
    async with stack.client() as client:
        account = await as_account(stack, client, "auto", limits=Limits(daily_requests=1_000))
        created = await create(client, content, execution="auto")
        batch = await ended(client, created["id"])
        rows = await billed(stack, account, 3)

    assert batch["request_counts"]["completed"] == 3
    assert len(await stack.provider.calls()) == 2
    assert len(rows) == len({row["job_id"] for row in rows}) == 3


@pytest.mark.parametrize("execution", ["provider", "auto"])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (encoded([a_line("a"), a_line("b", body={**chat(), "model": CLAUDE})]), "mixed_providers"),
        (encoded([a_line("a", body={**chat(), "model": "deepseek/deepseek-chat"})]), "no_provider_batch"),
    ],
    ids=["two providers", "one without"],
)
async def test_a_batch_that_no_one_provider_can_run_fails_or_runs_line_by_line(
    stack: Stack, content: bytes, code: str, execution: str
) -> None:
    async with stack.client() as client:
        created = await create(client, content, execution=execution)
        batch = await ended(client, created["id"])

    assert await stack.provider.batches() == []
    assert sums_up(batch)
    if execution == "provider":
        assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)
        assert await stack.provider.calls() == []
        return
    assert batch["request_counts"]["completed"] == batch["request_counts"]["total"]
    assert batch["handed_over"] == {"provider": None, "batches": [], "why_not": code}


@pytest.mark.parametrize("execution", ["provider", "auto"])
@pytest.mark.parametrize("script", [{"ends": "failed"}, {"failures": [{"on": "create", "status": 400}]}])
async def test_a_batch_that_its_provider_refuses_fails_its_lines_or_runs_them_one_by_one(
    stack: Stack, execution: str, script: dict[str, Any]
) -> None:
    await stack.provider.script_batches(**script)
    async with stack.client() as client:
        created = await create(client, lines_of(["a", "b"]), execution=execution)
        batch = await ended(client, created["id"])
        errors = await results(client, batch["error_file_id"])

    assert batch["status"] == "completed"
    assert batch["request_counts"]["completed"] == (0 if execution == "provider" else 2)
    if execution == "provider":
        assert len({error["error"]["code"] for error in errors}) == 1
        assert all(error["error"]["message"] for error in errors)


@pytest.mark.parametrize("model", ["gpt-4o-mini", CLAUDE])
@pytest.mark.parametrize("step", ["list", "upload", "create", "poll", "results"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_step_that_fails_for_a_while_is_done_again_and_the_batch_is_one(
    stack: Stack, model: str, step: str, after: bool
) -> None:
    await stack.provider.script_batches(failures=[{"on": step, "after": after, "times": 5}])
    async with stack.client() as client:
        created = await create(client, lines_of(["a", "b"], model=model), execution="provider")
        batch = await ended(client, created["id"])

    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 2)
    assert len(await stack.provider.batches()) == 1


async def test_a_provider_whose_batches_stay_away_leaves_its_lines_to_run_by_themselves(stack: Stack) -> None:
    await stack.provider.script_batches(failures=[{"on": "create", "status": 500, "times": 1_000}])
    async with stack.client() as client:
        created = await create(client, lines_of(["a", "b"]), execution="auto")
        batch = await ended(client, created["id"], within=60)

    assert batch["request_counts"]["completed"] == 2
    assert len(await stack.provider.calls()) == 2
    assert await stack.provider.batches() == []


@pytest.mark.parametrize("model", ["gpt-4o-mini", CLAUDE])
async def test_what_was_handed_over_is_answered_though_its_input_is_deleted(stack: Stack, model: str) -> None:
    await stack.provider.script_batches(polls=10)
    async with stack.client() as client:
        created = await create(client, lines_of(["a", "b"], model=model), execution="provider")
        await eventually(lambda: _handed(client, created["id"]), "hand-over")
        assert (await client.delete(f"/v1/files/{created['input_file_id']}")).is_success
        batch = await ended(client, created["id"])
        answers = await results(client, batch["output_file_id"])

    assert [answer["custom_id"] for answer in answers] == ["n0", "n1"]


async def test_lines_whose_hand_over_is_lost_from_the_storage_are_told_and_never_run_twice(
    stack: Stack,
) -> None:
    folder = stack.folder / "data" / "files"
    await stack.provider.script_batches(polls=10)
    async with stack.client() as client:
        content = lines_of(["a", "b"])
        before = set(folder.rglob("obj-*"))
        created = await create(client, content, execution="auto")
        await eventually(lambda: _handed(client, created["id"]), "hand-over")
        for path in set(folder.rglob("obj-*")) - before:
            if path.read_bytes() != content:
                path.unlink()
        batch = await ended(client, created["id"])
        errors = await results(client, batch["error_file_id"])

    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 2)
    assert {error["error"]["code"] for error in errors} == {"provider_batch_failed"}
    assert await stack.provider.calls() == []


async def test_a_batch_that_is_cancelled_before_anything_was_handed_over_hands_nothing_over(
    stack: Stack,
) -> None:
    async with stack.client() as client:
        limits = Limits(window_requests=2, window_seconds=3_600, daily_requests=100)
        await as_account(stack, client, "waits", limits=limits)
        created = await create(client, lines_of(["a"] * 4), execution="provider")

        async def begun() -> bool:
            return bool((await client.get(f"/v1/batches/{created['id']}")).json()["handed_over"])

        await eventually(begun, "begin of the batch")

        async def reserved() -> bool:
            return await _used(client) == {"daily_requests": 2.0}

        await eventually(reserved, "limits of two lines")
        await client.post(f"/v1/batches/{created['id']}/cancel")
        batch = await ended(client, created["id"])
        left = await _used(client)

    assert (batch["status"], batch["request_counts"]["cancelled"]) == ("cancelled", 4)
    assert left == {"daily_requests": 0.0}
    assert await stack.provider.batches() == []


async def _used(client: httpx.AsyncClient) -> dict[str, float]:
    limits = (await client.get("/api/v1/quota")).json()["limits"]
    return {one["measure"]: one["used"] for one in limits if one["measure"] == "daily_requests"}


async def test_one_model_is_one_batch_there_and_a_batch_of_several_is_put_together_again(
    stack: Stack,
) -> None:
    before = set((stack.folder / "data" / "files").rglob("obj-*"))
    models = ["gpt-4o-mini", "gpt-4o", "gpt-4.1"]
    content = encoded(a_line(f"n{n}", body={**chat(), "model": models[n % 3]}) for n in range(9))
    async with stack.client() as client:
        created = await create(client, content, execution="provider")
        batch = await ended(client, created["id"])
        answers = await results(client, batch["output_file_id"])

    theirs = await stack.provider.batches()
    left = set((stack.folder / "data" / "files").rglob("obj-*")) - before
    assert len(left) == 2  # input and output
    assert [len(one["requests"]) for one in theirs] == [3, 3, 3]
    # Each is handed over by a job of its own, so they begin there in any order.
    assert sorted(batch["handed_over"]["batches"]) == sorted(one["id"] for one in theirs)
    assert [answer["custom_id"] for answer in answers] == [f"n{n}" for n in range(9)]


@pytest.mark.parametrize("model", ["gpt-4o-mini", CLAUDE])
async def test_a_cancelled_batch_is_cancelled_there_and_keeps_what_was_answered(
    stack: Stack, model: str
) -> None:
    await stack.provider.script_batches(held=True, answers=2)
    async with stack.client() as client:
        limits = Limits(daily_requests=1_000, concurrent_requests=1)
        account = await as_account(stack, client, f"cancels-{model[:3]}", limits=limits)
        created = await create(client, lines_of(["a"] * 5, model=model), execution="auto")
        await eventually(lambda: _handed(client, created["id"]), "hand-over")
        await client.post(f"/v1/batches/{created['id']}/cancel")
        batch = await ended(client, created["id"])
        errors = await results(client, batch["error_file_id"])
        rows = await billed(stack, account, 2)

    (theirs,) = await stack.provider.batches()
    assert (batch["status"], theirs["status"]) == ("cancelled", "cancelled")
    assert batch["request_counts"] == {"total": 5, "completed": 2, "failed": 0, "cancelled": 3, "expired": 0}
    assert {error["error"]["code"] for error in errors} == {"batch_cancelled"}
    assert await stack.provider.calls() == []
    assert len(rows) == 2


async def _handed(client: httpx.AsyncClient, batch: str) -> bool:
    said = (await client.get(f"/v1/batches/{batch}")).json()["handed_over"]
    return bool(said and said["batches"])


async def test_a_batch_whose_time_is_over_is_stopped_there(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={**FAST, "HEADRACE_BATCHES__DEADLINE_SECONDS": "3"})
    await stack.provider.script_batches(held=True, answers=1)
    async with stack.client() as client:
        created = await create(client, lines_of(["a"] * 3), execution="provider")
        batch = await ended(client, created["id"])

    (theirs,) = await stack.provider.batches()
    assert (batch["status"], theirs["status"]) == ("expired", "cancelled")
    assert (batch["request_counts"]["completed"], batch["request_counts"]["expired"]) == (1, 2)


async def test_a_batch_whose_key_is_revoked_is_stopped_there(stack: Stack) -> None:
    await stack.provider.script_batches(held=True, answers=1)
    account = AccountId("revoked-there")
    owner = await stack.new_api_key(account, role=Role.ADMIN)
    token = await stack.new_api_key(account)
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        created = await create(client, lines_of(["a"] * 3), execution="provider")
        await eventually(lambda: _handed(client, created["id"]), "hand-over")
        client.headers["authorization"] = f"Bearer {owner}"
        keys = (await client.get("/api/v1/api-keys")).json()["data"]
        (its_key,) = (key["id"] for key in keys if token.startswith(key["prefix"]))
        assert (await client.delete(f"/api/v1/api-keys/{its_key}")).is_success
        batch = await ended(client, created["id"])
        errors = await results(client, batch["error_file_id"])

    (theirs,) = await stack.provider.batches()
    assert theirs["status"] == "cancelled"
    assert batch["request_counts"]["completed"] == 1
    assert {error["error"]["code"] for error in errors} == {"invalid_api_key"}


async def test_limits_are_reserved_for_each_line_and_given_back_with_those_nobody_answers(
    stack: Stack,
) -> None:
    async with stack.client() as client:
        limits = Limits(daily_requests=3, concurrent_requests=1)
        account = await as_account(stack, client, "limited", limits=limits)
        await stack.provider.script_batches(ends="failed")
        failed = await ended(client, (await create(client, lines_of(["a", "b"]), execution="provider"))["id"])
        await stack.provider.script_batches()
        batch = await ended(client, (await create(client, lines_of(["a"] * 5), execution="provider"))["id"])
        errors = await results(client, batch["error_file_id"])
        rows = await billed(stack, account, 3)

    assert failed["request_counts"]["failed"] == 2
    assert (batch["request_counts"]["completed"], batch["request_counts"]["failed"]) == (3, 2)
    assert {error["error"]["code"] for error in errors} == {"quota_exceeded"}
    assert len(rows) == 3


async def test_a_rate_limit_is_waited_for_before_anything_is_handed_over(stack: Stack) -> None:
    async with stack.client() as client:
        limits = Limits(window_requests=3, window_seconds=1)
        await as_account(stack, client, "paced-there", limits=limits)
        batch = await ended(client, (await create(client, lines_of(["a"] * 8), execution="provider"))["id"])

    (theirs,) = await stack.provider.batches()
    assert (batch["request_counts"]["completed"], len(theirs["requests"])) == (8, 8)


async def test_an_accounts_own_key_hands_over_and_is_billed_nothing(stack: Stack) -> None:
    own = "sk-own-key-of-the-account-0001"
    stack.secrets.append(("own key", own))
    async with stack.client() as client:
        account = await as_account(stack, client, "owner", role=Role.ADMIN)
        stored = await client.post("/api/v1/keys", json={"provider": "openai", "name": "own", "apiKey": own})
        assert stored.is_success, stored.text
        batch = await ended(client, (await create(client, lines_of(["a"]), execution="provider"))["id"])
        rows = await billed(stack, account, 1)

    (theirs,) = await stack.provider.batches()
    assert theirs["owner"] == f"Bearer {own}"
    assert batch["status"] == "completed"
    assert (rows[0]["billed_micro_usd"], rows[0]["credential_id"] == "default") == (0, False)


async def test_the_command_line_hands_over(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines_of(["a", "b"]))

    done = await run(
        stack, tmp_path, "batch", "submit", "in.jsonl", "--execution", "provider", "--wait", "--json"
    )

    batch = json.loads(done.out)
    assert done.code == 0, done.err
    assert batch["handed_over"]["batches"] == [one["id"] for one in await stack.provider.batches()]


async def test_the_word_for_who_runs_it_is_checked(stack: Stack) -> None:
    async with stack.client() as client:
        file = await client.post(
            "/v1/files", files={"file": ("in.jsonl", lines_of(["a"]))}, data={"purpose": "batch"}
        )
        wanted = {
            "input_file_id": file.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        refused = await client.post("/v1/batches", json={**wanted, "execution": "nobody"})
        plain = await client.post("/v1/batches", json=wanted)

    assert refused.status_code == 422
    assert "execution" in json.dumps(refused.json())
    assert (plain.json()["execution"], plain.json()["handed_over"]) == ("lines", None)
